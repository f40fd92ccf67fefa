package e2e

import (
	"fmt"
	"net"
	"regexp"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

const (
	// explanation is what the alert has to say. The server is of the systemd unit or the container
	// that these tests are of, if they are of one.
	explanation = `^Nothing listens on port 4840 for IPv4, and bind\(\) to it failed with EADDRINUSE \(time_wait\), last by opcua-server(?: of \S+)?\. ` +
		`(?:Before, opcua-server of \S+ listened there\. )?` +
		`The reason then: Connections of the old server are in TIME_WAIT, and the new socket does not set SO_REUSEADDR\. Set SO_REUSEADDR before bind\(\)\.`
	// howLong is what it says as well, but for a moment in which the exporter had no time to find
	// it out before Prometheus lost patience.
	howLong = ` The port is free in [0-9]+ s\.`
)

// A server without SO_REUSEADDR is stopped with open connections and started again: the port
// is blocked for a minute, which an operator is told, with the reason; and told when it is over.
func TestBlockedRestartIsToldAndResolved(t *testing.T) {
	t.Parallel()
	const clients = 5
	addr := loopback(4840)
	ns := kerneltest.New(t)
	m := newMonitor(t)
	m.add(t, &exporter{instance: "plant:10048", ns: ns, args: []string{"--watch.port=4840:opcua"}})

	server := launch.InRole(t, ns, "server", addr.String())
	out := start(t, "server", server)
	waitFor(t, out, "listening")
	m.start(t, loopback(alertmanagerPort).String())
	conns := connect(t, ns, addr.String(), clients)
	waitFor(t, out, fmt.Sprintf("accepted %d", clients))
	eventually(t, "Prometheus knows the listener and its connections", func() string {
		return m.missing(fmt.Sprintf(`sockstate_tcp_sockets{port="4840", family="ipv4", state="established"} == %d`, clients))
	})

	eventually(t, "Prometheus knows whose it is", func() string {
		return m.missing(`sockstate_tcp_listener_info{port="4840", family="ipv4", process="opcua-server"} == 1`)
	})

	server.Kill()
	for _, c := range conns {
		waitEOF(t, c)
		c.Close()
	}
	eventually(t, "the server's connections are in TIME_WAIT", func() string { return onlyTimeWait(t, ns, clients) })
	out = start(t, "server, again", launch.InRole(t, ns, "server", addr.String()))
	waitFor(t, out, "bind: address already in use")

	blocked := map[string]string{
		"alertname": "SockstateBindBlocked",
		"severity":  "critical",
		"job":       job,
		"instance":  "plant:10048",
		"port":      "4840",
		"family":    "ipv4",
	}
	// The details of a failure are lost while other tests make binds fail faster than the exporter
	// reads of them. So nobody is told before there is something to tell.
	eventually(t, "the alert has its reason", func() string { return m.notExplained(blocked) })
	m.startAlertmanager(t)
	told := m.hears(t, "firing", blocked)
	if want := 6; len(told.Labels) != want {
		t.Errorf("labels are %v, want %d", told.Labels, want)
	}
	checkText(t, told, "summary", `^A server cannot bind port 4840 for IPv4 on plant:10048$`)
	checkText(t, told, "description", explanation+`(`+howLong+`)?$`)
	checkText(t, told, "runbook_url", `/SockstateBindBlocked\.md$`)
	checkText(t, told, "dashboard_url", `/d/sockstate-port\?.*var-port=4840`)
	eventually(t, "the missing listener is silenced by the blocked bind", func() string { return m.notInhibited("SockstateListenerMissing") })

	waitFor(t, out, "listening")
	m.hears(t, "resolved", blocked)
}

// waitFor waits until the server wrote the line.
func waitFor(t *testing.T, out *kerneltest.Log, line string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the server says %q", line), func() string {
		if !has(out, line) {
			return out.String()
		}
		return ""
	})
}

func connect(t *testing.T, ns *kerneltest.NetNS, addr string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	ns.Do(t, func() {
		for range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			conns = append(conns, c)
		}
	})
	return conns
}

// waitEOF waits until the other end has closed the connection.
func waitEOF(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err.Error() != "EOF" {
		t.Fatalf("read from a server that ended: %d bytes, %v, want EOF", n, err)
	}
}

// onlyTimeWait says what else the namespace has than so many sockets in TIME_WAIT.
func onlyTimeWait(t *testing.T, ns *kerneltest.NetNS, want int) string {
	t.Helper()
	sockets, err := ns.TCPSockets()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range sockets {
		if s.State == kerneltest.StateTimeWait && s.Local.Port() == 4840 {
			n++
		}
	}
	if n != want || len(sockets) != want {
		return fmt.Sprint(sockets)
	}
	return ""
}

// missing says that a query has no result.
func (m *monitor) missing(expr string) string {
	v, err := m.query(expr)
	switch {
	case err != nil:
		return err.Error()
	case len(v) == 0:
		return "nothing is " + expr
	}
	return ""
}

// notExplained says what Prometheus has instead of the alert with its explanation.
func (m *monitor) notExplained(labels map[string]string) string {
	firing, err := m.firing()
	if err != nil {
		return err.Error()
	}
	for i := range firing {
		if firing[i].matches(labels) && regexp.MustCompile(explanation+howLong+`$`).MatchString(firing[i].Annotations["description"]) {
			return ""
		}
	}
	return fmt.Sprint(firing)
}

// hears waits for a notification.
func (m *monitor) hears(t *testing.T, status string, labels map[string]string) (told alert) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %v", status, labels), func() string {
		var ok bool
		if told, ok = m.hook.find(status, labels); ok {
			return ""
		}
		return "received " + m.hook.all()
	})
	return told
}

// notInhibited says why an alert is not silenced by another one.
func (m *monitor) notInhibited(name string) string {
	var alerts []struct {
		Labels map[string]string
		Status struct {
			State       string
			InhibitedBy []string
		}
	}
	if err := m.get(alertmanagerPort, "/api/v2/alerts", nil, &alerts); err != nil {
		return err.Error()
	}
	for _, a := range alerts {
		if a.Labels["alertname"] == name && len(a.Status.InhibitedBy) > 0 {
			return ""
		}
	}
	return fmt.Sprint(alerts)
}

func checkText(t *testing.T, a alert, annotation, want string) {
	t.Helper()
	if got := a.Annotations[annotation]; !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("%s is\n%s\nwant\n%s", annotation, got, want)
	}
}
