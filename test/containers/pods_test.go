package containers

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sockstate_exporter/test/launch"
)

// watchPods starts the exporter with the names that the kubelet and containerd have.
func (c *cluster) watchPods(t *testing.T) *exporter {
	t.Helper()
	return c.watch(t, c.podFlags()...)
}

func (c *cluster) podFlags() []string {
	return []string{allNamespaces, "--containers.kubelet=" + c.logs, "--containers.containerd=" + c.tasks()}
}

func (p *pod) info() string {
	return fmt.Sprintf(`sockstate_netns_info{namespace="shop",netns="shop/%[1]s",pod="%[1]s",pod_uid="%[2]s",runtime="containerd"} 1`, p.name, p.uid)
}

func (p *pod) listener(container, address, port string) string {
	return fmt.Sprintf(`sockstate_tcp_listener_info{address="%s",container="%s",family="ipv4",netns="shop/%s",port="%s",process="server"} 1`, address, container, p.name, port)
}

// crash starts a container over and over, as a kubelet does: its server cannot bind.
func (p *pod) crash(t *testing.T, name, address string, times int) {
	t.Helper()
	for attempt := range times {
		if err := p.tryContainer(t.Context(), name, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Attempt: uint32(attempt)}, Args: []string{address}}); err != nil {
			t.Fatal(err)
		}
	}
}

func failures(m launch.Metrics, netns string) float64 {
	n, err := m.Sum("sockstate_bind_failures_total", `netns="`+netns+`"`, `errno="EADDRINUSE"`)
	if err != nil {
		return -1
	}
	return n
}

func TestPodsAreCalledByName(t *testing.T) {
	c := newCluster(t, nil)
	e := c.watchPods(t)
	web, db := c.pod(t, "web-7d9f4-abcde"), c.pod(t, "db-0")
	for _, p := range []*pod{web, db} {
		p.container(t, "nginx", "0.0.0.0:8080", "127.0.0.1:9000")
	}
	m := e.expect(t, web.info(), db.info(), web.listener("nginx", "0.0.0.0", "8080"), db.listener("nginx", "0.0.0.0", "8080"), web.listener("nginx", "127.0.0.1", "9000"))
	if unit := slices.Collect(m.Samples("sockstate_tcp_listener_info", `netns="shop/db-0"`, `unit="`)); len(unit) > 0 {
		t.Errorf("a container that has a name shows its cgroup: %s", unit)
	}

	const crashes = 3
	web.crash(t, "sidecar", "0.0.0.0:8080", crashes)
	eventually(t, func() error {
		m = e.metrics(t)
		last := slices.Collect(m.Samples("sockstate_bind_last_failure_timestamp_seconds", `netns="shop/web-7d9f4-abcde"`, `port="8080"`, `container="sidecar"`, `diagnosis="other_listener"`))
		if n := failures(m, "shop/web-7d9f4-abcde"); n != crashes || len(last) != 1 {
			return fmt.Errorf("%v failed binds of the crash loop, want %d; the last one %q", n, crashes, last)
		}
		return nil
	})
	if n := failures(m, "shop/db-0"); n != 0 {
		t.Errorf("%v failed binds in the other pod, want 0", n)
	}
	why := e.Get(t, "/failures?format=json")
	for _, want := range []string{`"pod": "shop/web-7d9f4-abcde"`, `"container": "sidecar"`, "server in pod shop/web-7d9f4-abcde (pid ", ", container nginx)"} {
		if !strings.Contains(why, want) {
			t.Errorf("/failures does not say %s:\n%s", want, why)
		}
	}
	eventually(t, func() error {
		if log := e.Log.String(); !strings.Contains(log, "by server in pod shop/web-7d9f4-abcde (pid ") {
			return fmt.Errorf("the log does not name the pod:\n%s", log)
		}
		return nil
	})
	page := e.Get(t, "/ports")
	for _, want := range []string{"server in pod shop/db-0 (pid ", ", container nginx)"} {
		if !strings.Contains(page, want) {
			t.Errorf("/ports does not say %s:\n%s", want, page)
		}
	}
	code, text := c.check(t, append(c.podFlags()[1:], "--netns=shop/db-0", "8080")...)
	if code != 1 || !strings.Contains(text, "server in pod shop/db-0 (pid ") {
		t.Errorf("check: exit status %d, want 1, and the name of the pod:\n%s", code, text)
	}

	// Made again under the same name: its counters begin anew.
	old := web.uid
	web.remove(t)
	eventually(t, func() error {
		if m = e.metrics(t); strings.Contains(string(m), old) {
			return errors.New("the pod is gone, and its uid is still there")
		}
		return nil
	})
	if _, err := m.Sum("sockstate_tcp_listener_info", `netns="shop/web-7d9f4-abcde"`); err == nil {
		t.Error("the pod is gone, and its listener is still there")
	}
	web = c.pod(t, "web-7d9f4-abcde")
	web.container(t, "nginx", "0.0.0.0:8080")
	m = e.expect(t, web.info(), web.listener("nginx", "0.0.0.0", "8080"))
	if n := failures(m, "shop/web-7d9f4-abcde"); n != 0 {
		t.Errorf("the new pod has %v failed binds, want 0", n)
	}
	if n := failures(m, "other"); n < crashes {
		t.Errorf("%v failed binds in other namespaces, want at least the %d of the old pod", n, crashes)
	}
	if n := len(slices.Collect(m.Samples("sockstate_netns_info", `pod="web-7d9f4-abcde"`))); n != 1 {
		t.Errorf("%d namespaces have the name of the pod, want 1", n)
	}
}

// churnEnv is how many pods are made and removed in the long form.
const churnEnv = "SOCKSTATE_CONTAINERS_PODS"

func churnedPods(t *testing.T) int {
	t.Helper()
	text := os.Getenv(churnEnv)
	if text == "" {
		return 6
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number", churnEnv, text)
	}
	return n
}

// A node has few pods at a time, and many in the course of a week.
func TestNothingStaysOfPodsThatAreGone(t *testing.T) {
	n := churnedPods(t)
	c := newCluster(t, nil)
	e := c.watchPods(t)
	round := func() {
		var pods []*pod
		for i := range n {
			p := c.pod(t, fmt.Sprintf("churn-%d", i))
			p.container(t, "nginx", "0.0.0.0:8080")
			pods = append(pods, p)
		}
		m := e.expect(t, pods[0].info(), pods[n-1].info(), pods[n-1].listener("nginx", "0.0.0.0", "8080"))
		for _, p := range pods {
			if !strings.Contains(string(m), p.info()) || !strings.Contains(string(m), p.listener("nginx", "0.0.0.0", "8080")) {
				t.Errorf("%s is not there:\n%s", p.name, strings.Join(slices.Collect(m.Samples("sockstate_netns_info")), "\n"))
			}
		}
		if v, err := m.Sum("sockstate_watched_ports_dropped"); err != nil || v != 0 {
			t.Errorf("%v ports are not watched, %v", v, err)
		}
		for _, p := range pods {
			p.remove(t)
		}
	}
	stop, stopped := make(chan struct{}), make(chan error)
	go func() { stopped <- scrapeEachSecond(e, stop) }()
	round()
	gone := func() {
		t.Helper()
		eventually(t, func() error {
			m := e.metrics(t)
			left := slices.DeleteFunc(labels(m, "netns"), func(s string) bool { return !strings.HasPrefix(s, namespace+"/") })
			for line := range m.Samples("sockstate_netns_info", `namespace="shop"`) {
				left = append(left, line)
			}
			if len(left) > 0 {
				return fmt.Errorf("the pods are gone, and these are still there: %s", left)
			}
			return nil
		})
	}
	gone()
	files, memory := descriptors(t, e), e.ProcStatus(t, "VmRSS")
	round()
	gone()
	if now := descriptors(t, e); now >= files+n { // a scrape may be running
		t.Errorf("%d descriptors are open, were %d before %d pods", now, files, n)
	}
	if now := e.ProcStatus(t, "VmRSS"); now > memory+memory/4 {
		t.Errorf("%d kB of memory, were %d kB after as many pods", now, memory)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func scrapeEachSecond(e *exporter, stop <-chan struct{}) error {
	for {
		if status, _, err := e.TryGet("/metrics"); err != nil || status != http.StatusOK {
			return fmt.Errorf("scrape: status %d: %w", status, err)
		}
		select {
		case <-stop:
			return nil
		case <-time.After(time.Second):
		}
	}
}

func descriptors(t *testing.T, e *exporter) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
