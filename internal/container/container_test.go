package container

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/sock"
)

func TestLayoutsOfKubeletAndRuntimes(t *testing.T) {
	web := sock.Container{Namespace: "shop", Pod: "web-7d9f4-abcde", PodUID: uid, Name: "nginx"}
	with := func(c sock.Container, change func(*sock.Container)) sock.Container {
		change(&c)
		return c
	}
	of := func(runtime string) sock.Container {
		return with(web, func(c *sock.Container) { c.Runtime = runtime })
	}
	sandbox := func(runtime string) sock.Container {
		return with(of(runtime), func(c *sock.Container) { c.Name = "" })
	}
	for name, tt := range map[string]struct {
		layout func(*tree)
		asked  sock.ContainerID
		want   sock.Container
	}{
		"kubelet, driver systemd": {
			func(r *tree) { r.kubelet("shop", "web-7d9f4-abcde", uid, "nginx", id(2)) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeContainerd, PodUID: uid}, of(sock.RuntimeContainerd),
		},
		"kubelet, driver cgroupfs, which names no runtime": {
			func(r *tree) { r.kubelet("shop", "web-7d9f4-abcde", uid, "nginx", id(2)) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeOther, PodUID: uid}, of(""),
		},
		"kubelet, driver cgroupfs, and the runtime's files": {
			func(r *tree) {
				r.kubelet("shop", "web-7d9f4-abcde", uid, "nginx", id(2))
				r.storage(id(2), crio("container", "shop", "web-7d9f4-abcde", uid, "nginx"))
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeOther, PodUID: uid}, of(sock.RuntimeCRIO),
		},
		"kubelet, a container of a pod whose uid the cgroup does not name": {
			func(r *tree) { r.kubelet("shop", "web-7d9f4-abcde", uid, "nginx", id(2)) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeOther}, with(of(""), func(c *sock.Container) { c.PodUID = "" }),
		},
		"kubelet, a sandbox": {
			func(r *tree) { r.kubelet("shop", "web-7d9f4-abcde", uid, "", "") },
			sock.ContainerID{ID: id(1), Runtime: sock.RuntimeOther, PodUID: uid}, sandbox(""),
		},
		"kubelet, a static pod": {
			func(r *tree) { r.kubelet("kube-system", "etcd-node.example", staticUID, "etcd", id(2)) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeCRIO, PodUID: staticUID},
			sock.Container{Runtime: sock.RuntimeCRIO, Namespace: "kube-system", Pod: "etcd-node.example", PodUID: staticUID, Name: "etcd"},
		},
		"kubelet, a name so long that the id is cut": {
			func(r *tree) { r.kubelet("shop", longPod, uid, "nginx", id(2)) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeContainerd, PodUID: uid}, with(of(sock.RuntimeContainerd), func(c *sock.Container) { c.Pod = longPod }),
		},
		"containerd, a container of a pod": {
			func(r *tree) {
				r.containerd("k8s.io", id(2), cri("container", "shop", "web-7d9f4-abcde", uid, "nginx"))
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeOther, PodUID: uid}, of(sock.RuntimeContainerd),
		},
		"containerd, a sandbox": {
			func(r *tree) {
				r.containerd("k8s.io", id(1), cri("sandbox", "shop", "web-7d9f4-abcde", uid, ""))
			},
			sock.ContainerID{ID: id(1), Runtime: sock.RuntimeOther, PodUID: uid}, sandbox(sock.RuntimeContainerd),
		},
		"containerd, what nobody names": {
			func(r *tree) { r.containerd("default", id(2), "") },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeContainerd}, sock.Container{},
		},
		"CRI-O, a container": {
			func(r *tree) { r.storage(id(2), crio("container", "shop", "web-7d9f4-abcde", uid, "nginx")) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeCRIO, PodUID: uid}, of(sock.RuntimeCRIO),
		},
		"CRI-O, a sandbox": {
			func(r *tree) { r.storage(id(1), crio("sandbox", "shop", "web-7d9f4-abcde", uid, "POD")) },
			sock.ContainerID{ID: id(1), Runtime: sock.RuntimeCRIO, PodUID: uid}, sandbox(sock.RuntimeCRIO),
		},
		"Podman": {
			func(r *tree) {
				r.storage(id(2), `"io.container.manager": "libpod", "io.kubernetes.pod.name": "another", "io.kubernetes.pod.namespace": "kube-system"`)
				r.file("/var/lib/containers/storage/overlay-containers/containers.json",
					fmt.Sprintf(`[{"id": %q, "names": ["first"], "layer": "x"}, {"id": %q, "names": ["web_1.a"], "metadata": "{}"}]`, id(1), id(2)))
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimePodman}, sock.Container{Runtime: sock.RuntimePodman, Name: "web_1.a"},
		},
		"Podman, removed when it ends": {
			func(r *tree) {
				r.storage(id(2), `"io.container.manager": "libpod"`)
				r.file("/var/lib/containers/storage/overlay-containers/containers.json", `[]`)
				r.file("/var/lib/containers/storage/overlay-containers/volatile-containers.json", fmt.Sprintf(`[{"id": %q, "names": ["web"]}]`, id(2)))
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimePodman}, sock.Container{Runtime: sock.RuntimePodman, Name: "web"},
		},
		"Docker": {
			func(r *tree) {
				r.docker(id(2), `{"Name": "/web", "Config": {"Labels": {"io.kubernetes.pod.name": "another"}}}`, `{"NetworkMode": "default"}`)
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}, sock.Container{Runtime: sock.RuntimeDocker, Name: "web"},
		},
		"Docker, in the network of another container": {
			func(r *tree) { r.docker(id(2), `{"Name": "/web"}`, `{"NetworkMode": "container:`+id(1)+`"}`) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}, sock.Container{Runtime: sock.RuntimeDocker, Name: "web", Joined: true},
		},
		"Docker Compose": {
			func(r *tree) {
				r.docker(id(2), `{"Name": "/shop-web-2", "Config": {"Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}}}`, `{}`)
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}, sock.Container{Runtime: sock.RuntimeDocker, Name: "shop-web-2", Service: "web"},
		},
		"Docker, labels of an image that are not those of Docker Compose": {
			func(r *tree) {
				r.docker(id(2), `{"Name": "/evil", "Config": {"Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}}}`, `{}`)
			},
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}, sock.Container{Runtime: sock.RuntimeDocker, Name: "evil"},
		},
		"Docker below a kubelet": {
			func(r *tree) { r.docker(id(2), `{"Name": "/k8s_nginx_web-7d9f4-abcde_shop_`+uid+`_3"}`, `{}`) },
			sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker, PodUID: uid}, of(sock.RuntimeDocker),
		},
		"Docker below a kubelet, a sandbox": {
			func(r *tree) { r.docker(id(1), `{"Name": "/k8s_POD_web-7d9f4-abcde_shop_`+uid+`_0"}`, `{}`) },
			sock.ContainerID{ID: id(1), Runtime: sock.RuntimeDocker, PodUID: uid}, sandbox(sock.RuntimeDocker),
		},
		"no files": {func(*tree) {}, sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}, sock.Container{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTree(t)
			tt.layout(r)
			if got := r.names().Of(tt.asked); got != tt.want {
				t.Errorf("got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestHostileFilesAreNotRead(t *testing.T) {
	for name, spoil := range map[string]func(*tree, string){
		"a pipe": func(r *tree, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				r.t.Fatal(err)
			}
		},
		"a link": func(r *tree, path string) {
			r.file("/elsewhere", `{"Name": "/web"}`)
			if err := os.Symlink(r.path("/elsewhere"), path); err != nil {
				r.t.Fatal(err)
			}
		},
		"a device": func(r *tree, path string) {
			if err := os.Symlink("/dev/zero", path); err != nil {
				r.t.Fatal(err)
			}
		},
		"a large file": func(r *tree, path string) {
			r.file(strings.TrimPrefix(path, r.root), `{"Name": "/web"}`+strings.Repeat(" ", maxFile))
		},
		"deep nesting": func(r *tree, path string) {
			r.file(strings.TrimPrefix(path, r.root), `{"X": `+strings.Repeat(`[`, 1<<20)+`, "Name": "/web"}`)
		},
		"a number for a name": func(r *tree, path string) { r.file(strings.TrimPrefix(path, r.root), `{"Name": 7}`) },
		"a name with a path":  func(r *tree, path string) { r.file(strings.TrimPrefix(path, r.root), `{"Name": "/../../etc"}`) },
		"a name of odd bytes": func(r *tree, path string) { r.file(strings.TrimPrefix(path, r.root), "{\"Name\": \"/we\xffb\"}") },
		"a name in another script": func(r *tree, path string) {
			r.file(strings.TrimPrefix(path, r.root), `{"Name": "/wеb"}`) // a Cyrillic letter
		},
		"a name without end": func(r *tree, path string) {
			r.file(strings.TrimPrefix(path, r.root), `{"Name": "/`+strings.Repeat("x", 300)+`"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTree(t)
			r.docker(id(1), `{"Name": "/good"}`, `{}`)
			dir := r.path("/var/lib/docker/containers/" + id(2))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			spoil(r, dir+"/config.v2.json")
			n := r.names()
			if got := n.Of(sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}); got != (sock.Container{}) {
				t.Errorf("got %+v, want nothing", got)
			}
			if got := n.Of(sock.ContainerID{ID: id(1), Runtime: sock.RuntimeDocker}).Name; got != "good" {
				t.Errorf("another container: got %q, want good", got)
			}
		})
	}
}

// A pod's users may choose annotations and labels, but no name of another form.
func TestNamesOfAnotherFormAreNotTaken(t *testing.T) {
	r := newTree(t)
	r.containerd("k8s.io", id(2), cri("container", "Shop", "web", uid, "nginx"))
	r.containerd("k8s.io", id(3), cri("container", "shop", "web/../db", uid, "nginx"))
	r.containerd("k8s.io", id(4), cri("container", "shop", "web", "not a uid", "ng inx"))
	for _, file := range []string{
		"web_shop_nginx-zz" + id(5)[2:] + ".log", "web_sh.op_nginx-" + id(5) + ".log", "web_shop-" + id(5) + ".log", "web_shop_nginx-" + id(5), "_-.log", ".log",
	} {
		r.file("/var/log/containers/"+file, "")
	}
	for _, file := range []string{"shop_web_", "shop_web", "_web_" + uid, "shop__" + uid, "sh.op_web_" + uid} {
		r.file("/var/log/pods/"+file+"/x", "")
	}
	n := r.names()
	for i, want := range map[int]sock.Container{
		2: {}, 3: {}, 4: {Runtime: sock.RuntimeContainerd, Namespace: "shop", Pod: "web", PodUID: uid}, 5: {},
	} {
		if got := n.Of(sock.ContainerID{ID: id(i), Runtime: sock.RuntimeOther, PodUID: uid}); got != want {
			t.Errorf("%d: got %+v, want %+v", i, got, want)
		}
	}
	for _, bad := range []string{"", "../../../etc", id(2)[:63] + "/", strings.ToUpper(id(2)), id(2) + "0"} {
		if got := n.Of(sock.ContainerID{ID: bad, Runtime: sock.RuntimeOther}); got != (sock.Container{}) || n.known[sock.ContainerID{ID: bad, Runtime: sock.RuntimeOther}] != nil {
			t.Errorf("id %q: got %+v, want nothing, and nothing kept", bad, got)
		}
	}
}

func TestAContainerIsReadOnce(t *testing.T) {
	r := newTree(t)
	r.docker(id(2), `{"Name": "/web"}`, `{}`)
	n := r.names()
	asked := sock.ContainerID{ID: id(2), Runtime: sock.RuntimeDocker}
	for range 2 {
		if got := n.Of(asked).Name; got != "web" {
			t.Fatalf("got %q, want web", got)
		}
		r.docker(id(2), `{"Name": "/renamed"}`, `{}`)
	}
}

// The link to the log of a container is made after the container has started.
func TestANameThatComesLaterIsFound(t *testing.T) {
	r := newTree(t)
	r.kubelet("shop", "web", uid, "", "")
	synctest.Test(t, func(t *testing.T) {
		n := r.names()
		asked := sock.ContainerID{ID: id(2), Runtime: sock.RuntimeContainerd, PodUID: uid}
		if got := n.Of(asked); got.PodName() != "shop/web" || got.Name != "" {
			t.Fatalf("got %+v, want a pod without a name of the container", got)
		}
		r.kubelet("shop", "web", uid, "nginx", id(2))
		if got := n.Of(asked).Name; got != "" {
			t.Errorf("at once: got %q, want no second look", got)
		}
		time.Sleep(firstRetry)
		if got := n.Of(asked).Name; got != "nginx" {
			t.Errorf("later: got %q, want nginx", got)
		}
	})
}

func TestAContainerIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(Paths{})
		for i := range 2 * maxKnown {
			n.Of(sock.ContainerID{ID: id(i), Runtime: sock.RuntimeOther})
		}
		if len(n.known) > maxKnown {
			t.Errorf("%d are known, want %d at most", len(n.known), maxKnown)
		}
		time.Sleep(keepUnasked + time.Second)
		n.Of(sock.ContainerID{ID: id(1), Runtime: sock.RuntimeOther})
		if len(n.known) != 1 {
			t.Errorf("%d are known after ten minutes, want 1", len(n.known))
		}
	})
}

func TestNoNames(t *testing.T) {
	if got := (*Names)(nil).Of(sock.ContainerID{ID: id(1), Runtime: sock.RuntimeDocker}); got != (sock.Container{}) {
		t.Errorf("got %+v", got)
	}
}

func FuzzLayouts(f *testing.F) {
	f.Add(`{"Name": "/web", "annotations": {`+cri("container", "shop", "web", uid, "nginx")+`}}`, "web_shop_nginx-"+id(2)+".log")
	f.Add(`{"annotations": {`+crio("container", "shop", "web", uid, "nginx")+`}}`, "shop_web_"+uid)
	f.Add(`[{"id": "`+id(2)+`", "names": ["web"]}]`, "k8s_nginx_web_shop_"+uid+"_0")
	all := newTree(f)
	all.storage(id(2), `"io.container.manager": "libpod"`)
	f.Fuzz(func(t *testing.T, text, name string) {
		r := &tree{t, all.root}
		r.file("/run/containerd/io.containerd.runtime.v2.task/k8s.io/"+id(3)+"/config.json", text)
		r.file("/var/lib/containers/storage/overlay-containers/"+id(4)+"/userdata/config.json", text)
		r.file("/var/lib/containers/storage/overlay-containers/containers.json", text)
		r.docker(id(5), text, text)
		n := r.names()
		addLog(map[string]sock.Container{}, name)
		n.logs.all, n.pods.all = map[string]sock.Container{}, map[string]sock.Container{}
		addPod(n.pods.all, name)
		for i := range 6 {
			c := n.Of(sock.ContainerID{ID: id(i), Runtime: sock.RuntimeOther, PodUID: uid})
			if strings.Count(c.String(), "/") > 1 || c.Name != "" && !isName(c.Name) || c.Pod != "" && (!isPod(c.Pod) || !isKubeName(c.Namespace)) || c.Service != "" && !isName(c.Service) {
				t.Errorf("%q: got %+v", text, c)
			}
		}
	})
}
