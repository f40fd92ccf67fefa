package exporter

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

// A privilegeTest runs the exporter with a privilege and without. What the row of the
// privilege in docs/privileges.md says is lost is looked for in both.
type privilegeTest struct {
	with, without func(t *testing.T, ns *kerneltest.NetNS) page

	// unless a mode traces binds that needs no tracefs: words of the row.
	notWithoutTracefs []string

	// also looks at what a row says in words.
	also func(t *testing.T, with, without page)
}

// A page is what an exporter has said in its life, and its metrics once it was ready.
type page struct{ metrics, log string }

func visit(t *testing.T, ns *kerneltest.NetNS, e *exporter) page {
	t.Helper()
	e.Run(t)
	failToListen(t, ns)
	p := page{metrics: e.Get(t, "/metrics")}
	e.Stop()
	p.log = e.Log.String()
	return p
}

// failToListen makes a listen() fail: counters of failed calls appear with the first one.
func failToListen(t *testing.T, ns *kerneltest.NetNS) {
	t.Helper()
	reuse := kerneltest.Options{ReuseAddr: true}
	first := ns.Bind(t, loopback(0), reuse)
	second := ns.Bind(t, first.Addr(), reuse)
	if err := unix.Listen(first.FD(), 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(second.FD(), 1); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("listen: %v, want %v", err, unix.EADDRINUSE)
	}
	_, _ = first.Close(), second.Close()
}

// has says whether there is a series of the word: a metric, all that begin with it (a star at
// the end), or a metric of port 4840 with a label that is not empty.
func (p page) has(word string) bool {
	metric, label, _ := strings.Cut(strings.TrimSuffix(word, "}"), "{")
	prefix, star := strings.CutSuffix(metric, "*")
	pattern := "(?m)^" + regexp.QuoteMeta(prefix)
	switch {
	case label == "port":
		pattern += `\{.*\bport="4840"`
	case label != "":
		pattern += `\{.*\bport="4840".*\b` + label + `="[^"]+`
	case !star:
		pattern += `[{ ]`
	}
	return regexp.MustCompile(pattern).MatchString(p.metrics)
}

// feature is the row of sockstate_feature_available, empty without.
func (p page) feature(name string) string {
	return regexp.MustCompile(`(?m)^sockstate_feature_available\{feature="` + name + `".*$`).FindString(p.metrics)
}

// reason says whether a feature has it.
func (p page) reason(word string) bool {
	return strings.Contains(p.metrics, `,reason="`+word+`"}`)
}

// asUser is the exporter of an ordinary user with capabilities.
func asUser(caps string, args ...string) func(*testing.T, *kerneltest.NetNS) page {
	return func(t *testing.T, ns *kerneltest.NetNS) page {
		t.Helper()
		return visit(t, ns, userCommand(t, ns, caps, args...))
	}
}

func userCommand(t *testing.T, ns *kerneltest.NetNS, caps string, args ...string) *exporter {
	t.Helper()
	e := command(t, ns, args...)
	e.Cmd.Dir = "/"
	e.Cmd.As(nobody, nobody)
	for _, name := range strings.Fields(caps) {
		e.Cmd.SysProcAttr.AmbientCaps = append(e.Cmd.SysProcAttr.AmbientCaps, capabilities()[name])
	}
	return e
}

// asRoot is the exporter of root, in a mount namespace of its own where role changed something.
func asRoot(role string, attr syscall.SysProcAttr, args ...string) func(*testing.T, *kerneltest.NetNS) page {
	return func(t *testing.T, ns *kerneltest.NetNS) page {
		t.Helper()
		e := command(t, ns, args...)
		if role != "" {
			e.inRole(role)
			attr.Unshareflags |= syscall.CLONE_NEWNS
		}
		e.Cmd.SysProcAttr = &attr
		return visit(t, ns, e)
	}
}

// inOther gives the exporter a network namespace beside its own, as descriptor 3.
func inOther(caps string) func(*testing.T, *kerneltest.NetNS) page {
	return func(t *testing.T, ns *kerneltest.NetNS) page {
		t.Helper()
		e := userCommand(t, ns, caps, "--netns=/proc/self/fd/3")
		other, err := os.Open(kerneltest.New(t).Path())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		e.Cmd.ExtraFiles = []*os.File{other}
		return visit(t, ns, e)
	}
}

// besideOther is the exporter beside a process of root's in a network namespace of its own,
// where something listens on port 4841.
func besideOther(caps string) func(*testing.T, *kerneltest.NetNS) page {
	return func(t *testing.T, ns *kerneltest.NetNS) page {
		t.Helper()
		other := kerneltest.New(t)
		other.Listen(t, loopback(4841), kerneltest.Options{})
		process := other.Command(t, kerneltest.RequireCommand(t, "sleep"), "3600")
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		return asUser(caps, "--netns.processes")(t, ns)
	}
}

const (
	allButAdmin = "CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
	lowPorts    = "--web.listen-address=127.0.0.1:443"
)

// privilegeTests are by the first column of the table.
func privilegeTests() map[string]privilegeTest {
	tracing := []string{"bind_tracing", "sockstate_bind_*", "sockstate_listen_failures_total", "tracefs_denied", "no_tracefs"}
	allButOne := func(which string) string {
		return strings.Join(slices.DeleteFunc(strings.Fields(allButAdmin), func(c string) bool { return c == which }), " ")
	}
	return map[string]privilegeTest{
		"CAP_BPF":     {with: asUser(allButAdmin), without: asUser(allButOne("CAP_BPF"))},
		"CAP_PERFMON": {with: asUser(allButAdmin), without: asUser(allButOne("CAP_PERFMON"))},
		"CAP_DAC_READ_SEARCH": {
			with: asUser(allButAdmin), without: asUser(allButOne("CAP_DAC_READ_SEARCH")),
			notWithoutTracefs: tracing,
		},
		"CAP_SYS_PTRACE": {
			with: besideOther(allButAdmin + " CAP_SYS_ADMIN"), without: besideOther(allButOne("CAP_SYS_PTRACE") + " CAP_SYS_ADMIN"),
			also: func(t *testing.T, with, without page) {
				found := regexp.MustCompile(`(?m)^sockstate_tcp_listener_info\{.*netns="[^"]+",port="4841"`).MatchString
				if !found(with.metrics) || found(without.metrics) {
					t.Errorf("the namespace of another user's process is found with it: %v, without: %v", found(with.metrics), found(without.metrics))
				}
			},
		},
		"CAP_SYS_ADMIN": {with: inOther("CAP_SYS_ADMIN"), without: inOther("")},
		"CAP_NET_BIND_SERVICE": {
			with:    asUser("CAP_NET_BIND_SERVICE", withoutPrivileges(lowPorts)...),
			without: refused(withoutPrivileges(lowPorts)...),
			also: func(t *testing.T, _, without page) {
				const want = "sockstate_exporter: error: listen tcp 127.0.0.1:443: bind: permission denied\n"
				if !strings.HasSuffix(without.log, want) {
					t.Errorf("without it the exporter said\n%swant %s", without.log, want)
				}
			},
		},
		"CAP_SETPCAP": {
			with: asUser("CAP_SETPCAP", withoutPrivileges()...), without: asUser("", withoutPrivileges()...),
			also: func(t *testing.T, with, without page) {
				if !strings.Contains(with.log, "bounding_set_emptied=true") || !strings.Contains(without.log, "bounding_set_emptied=false") {
					t.Errorf("log with it\n%swithout\n%s", with.log, without.log)
				}
			},
		},
		"CAP_NET_ADMIN": {
			// What the exporter's own connections leave is not the same in both.
			with: asUser("CAP_NET_ADMIN", "--watch.exclude=10048"), without: asUser("", "--watch.exclude=10048"),
			also: func(t *testing.T, with, without page) {
				if a, b := names(with), names(without); !slices.Equal(a, b) || len(a) == 0 {
					t.Errorf("with it there are\n%s\nwithout\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
				}
			},
		},
		"tracefs, mounted": {
			with: asRoot("", syscall.SysProcAttr{}), without: asRoot("notracefs", syscall.SysProcAttr{}),
			notWithoutTracefs: tracing,
		},
		"BTF": {with: asRoot("", syscall.SysProcAttr{}), without: asRoot("nobtf", syscall.SysProcAttr{})},
		"/run/netns": {
			with:    asRoot("named", syscall.SysProcAttr{}, "--netns=sockstate*"),
			without: asRoot("nonames", syscall.SysProcAttr{}, "--netns=sockstate*"),
			also: func(t *testing.T, with, without page) {
				if !strings.Contains(with.metrics, "\nsockstate_watched_namespaces 1\n") || !strings.Contains(without.metrics, "\nsockstate_watched_namespaces 0\n") {
					t.Errorf("with it there are\n%s\nwithout\n%s", names(with), names(without))
				}
			},
		},
		"the host's pid namespace": {
			with:    asRoot("", syscall.SysProcAttr{}),
			without: asRoot("newproc", syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}),
		},
		"the host's network namespace": {
			with: asUser("", withoutPrivileges()...),
			without: func(t *testing.T, _ *kerneltest.NetNS) page {
				return asUser("", withoutPrivileges()...)(t, kerneltest.New(t))
			},
		},
		"the initial user namespace": {
			with: asRoot("", syscall.SysProcAttr{}),
			without: asRoot("", syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			}),
		},
	}
}

// refused is an exporter that ends at once.
func refused(args ...string) func(*testing.T, *kerneltest.NetNS) page {
	return func(t *testing.T, ns *kerneltest.NetNS) page {
		t.Helper()
		e := userCommand(t, ns, "", args...)
		if status := e.Wait(t); status != 1 {
			t.Fatalf("exit status %d, want 1\n%s", status, e.Log)
		}
		return page{log: e.Log.String()}
	}
}

// names are the metrics of a page, with those labels that do not come and go.
func names(p page) []string {
	var out []string
	for line := range strings.Lines(p.metrics) {
		name, _, _ := strings.Cut(line, " ")
		if name, _, _ = strings.Cut(name, "{"); strings.HasPrefix(name, "sockstate_") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// privilegeRows are the cells of the table by the first one.
func privilegeRows(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/privileges.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Privilege by privilege\n")
	if !ok {
		t.Fatal("docs/privileges.md has no section of that name")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := make(map[string][]string)
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 4 || strings.TrimSpace(cells[0]) == "privilege" {
			continue
		}
		for i := range cells {
			if cells[i] = strings.TrimSpace(cells[i]); cells[i] == "" {
				t.Errorf("a cell is empty: %s", line)
			}
		}
		rows[strings.Trim(cells[0], "`")] = cells
	}
	return rows
}

func TestEachRowOfTheTableOfPrivilegesIsTrue(t *testing.T) {
	kerneltest.RequireRoot(t)
	rows, tests := privilegeRows(t), privilegeTests()
	for name := range tests {
		if rows[name] == nil {
			t.Errorf("docs/privileges.md has no row %q", name)
		}
	}
	code := regexp.MustCompile("`([^`]+)`")
	for name, cells := range rows {
		test, ok := tests[name]
		if !ok {
			t.Errorf("no test of the row %q", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			ns.Listen(t, loopback(4840), kerneltest.Options{})
			with, without := test.with(t, ns), test.without(t, ns)
			tracefs := strings.Contains(with.feature("bind_tracing"), `mode="tracepoint"`)
			for _, m := range code.FindAllStringSubmatch(cells[2]+cells[3], -1) {
				if !tracefs && slices.Contains(test.notWithoutTracefs, m[1]) {
					continue
				}
				checkLost(t, m[1], with, without)
			}
			if test.also != nil {
				test.also(t, with, without)
			}
			if t.Failed() {
				t.Logf("with it\n%swithout\n%s", with.log, without.log)
			}
		})
	}
}

// checkLost: the word is a metric, a feature or a reason, and makes the difference.
func checkLost(t *testing.T, word string, with, without page) {
	t.Helper()
	switch {
	case strings.HasPrefix(word, "sockstate_"):
		if !with.has(word) || without.has(word) {
			t.Errorf("%s is there with it: %v, without: %v; want true and false", word, with.has(word), without.has(word))
		}
	case with.feature(word) != "":
		if with.feature(word) == without.feature(word) {
			t.Errorf("with it and without: %s", with.feature(word))
		}
	default:
		if with.reason(word) || !without.reason(word) {
			t.Errorf("a feature has the reason %s with it: %v, without: %v; want false and true", word, with.reason(word), without.reason(word))
		}
	}
}

// hide mounts an empty directory over one, in the mount namespace of this process.
func hide(dir string) error {
	if err := unix.Mount("none", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("hide %s: %w", dir, err)
	}
	return nil
}

// withoutBTF is the exporter where the kernel shows no BTF.
func withoutBTF([]string) error {
	if err := hide("/sys/kernel/btf"); err != nil {
		return err
	}
	return becomeExporter()
}

// withNames is the exporter where /run/netns has one namespace.
func withNames([]string) error {
	if err := hide("/run"); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := nameNewNetNS("/run/netns/sockstate"); err != nil {
		return err
	}
	return becomeExporter()
}

// nameNewNetNS binds a network namespace that is made for it to a file.
func nameNewNetNS(path string) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	named := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		named <- err
	}()
	if err := <-named; err != nil {
		return fmt.Errorf("name a network namespace: %w", err)
	}
	return nil
}

// withoutNames is the exporter in a container that does not get /run/netns.
func withoutNames([]string) error {
	if err := hide("/run"); err != nil {
		return err
	}
	return becomeExporter()
}

// withNewProc is the exporter in a container with a pid namespace of its own.
func withNewProc([]string) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc: %w", err)
	}
	return becomeExporter()
}
