package owner

import (
	"strings"
	"testing"

	"sockstate_exporter/internal/sock"
)

func TestContainersHaveTheNamesThatPeopleCallThem(t *testing.T) {
	id := strings.Repeat("0a", 32)
	const uid = "8d5c1f6e-0b3a-4c47-9d86-3b1f7c1a2e44"
	named := sock.Container{Runtime: sock.RuntimeContainerd, Namespace: "shop", Pod: "web", PodUID: uid, Name: "nginx"}
	proc := newFakeProc(t,
		fakeProcess{pid: 7, name: "nginx", cgroup: "/kubepods/burstable/pod" + uid + "/" + id, sockets: []uint32{70}},
		fakeProcess{pid: 8, name: "helper", cgroup: "/kubepods/burstable/pod" + uid + "/" + id, sockets: []uint32{80}},
		fakeProcess{pid: 9, name: "mallory", cgroup: "/user.slice/user-1000.slice/user@1000.service/kubepods/pod" + uid + "/" + id, sockets: []uint32{90}},
		fakeProcess{pid: 10, name: "sshd", cgroup: "/system.slice/ssh.service", sockets: []uint32{100}},
	)
	asked := 0
	f := newFinder(t, Options{Proc: proc.path, Containers: func(got sock.ContainerID) sock.Container {
		asked++
		if want := (sock.ContainerID{ID: id, Runtime: sock.RuntimeOther, PodUID: uid}); got != want {
			t.Errorf("asked for %+v, want %+v", got, want)
		}
		return named
	}})
	owners := find(t, f, Socket{1, 70}, Socket{2, 80}, Socket{3, 90}, Socket{4, 100})
	for cookie, want := range map[uint64]sock.Container{1: named, 2: named, 3: {}, 4: {}} {
		if got := owners[cookie].Named; got != want {
			t.Errorf("socket %d: got %+v, want %+v", cookie, got, want)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want once for each process in a container of the system", asked)
	}
	// Names that are known later are shown then.
	named.Name = "renamed"
	if got := find(t, f, Socket{1, 70})[1].Named; got != named {
		t.Errorf("got %+v, want %+v", got, named)
	}
}

func TestLabelsOfContainers(t *testing.T) {
	id := strings.Repeat("0a", 32)
	scope := "docker-" + id + ".scope"
	for name, tt := range map[string]struct {
		o                                     Owner
		unit, container, shownUnit, shownName string
	}{
		"no container":   {Owner{Unit: "a.service"}, "a.service", "", "a.service", ""},
		"without a name": {Owner{Unit: scope, Runtime: "docker", Container: id}, "docker-0a0a0a0a0a0a", "", scope, "0a0a0a0a0a0a"},
		"with a name":    {Owner{Unit: scope, Runtime: "docker", Container: id, Named: sock.Container{Name: "web"}}, "", "web", "", "web"},
		"of Compose": {
			Owner{Unit: scope, Runtime: "docker", Container: id, Named: sock.Container{Name: "shop-web-1", Service: "web"}}, "", "web", "", "shop-web-1",
		},
		"of which only the pod is known": {
			Owner{Runtime: "container", Container: id, Named: sock.Container{Namespace: "shop", Pod: "web"}}, "", "", "", "",
		},
		"in a unit of its own": {
			Owner{Unit: "web.service", Runtime: "podman", Container: id, Named: sock.Container{Name: "systemd-web"}}, "web.service", "systemd-web", "web.service", "systemd-web",
		},
	} {
		_, unit, container := tt.o.Labels("")
		if unit != tt.unit || container != tt.container || tt.o.ShownUnit() != tt.shownUnit || tt.o.ShownContainer() != tt.shownName {
			t.Errorf("%s: got labels %q and %q, in texts %q and %q; want %q, %q, %q and %q",
				name, unit, container, tt.o.ShownUnit(), tt.o.ShownContainer(), tt.unit, tt.container, tt.shownUnit, tt.shownName)
		}
	}
}
