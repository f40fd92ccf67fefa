package sockflags_test

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/sockflags"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// withListener is a namespace with a listener (SO_REUSEADDR, owned by this process,
// so by root) and one TIME_WAIT socket.
func withListener(t *testing.T) (*kerneltest.NetNS, sockflags.ListenerID) {
	t.Helper()
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	l := ns.Listen(t, netip.AddrPortFrom(v4lo, port), kerneltest.Options{ReuseAddr: true})
	l.Peers(t, kerneltest.StateTimeWait, 1, v4lo)
	return ns, idOf(t, l.FD())
}

func TestBPFNeedsExactlyCapBPFAndCapPerfmon(t *testing.T) {
	ns, id := withListener(t)
	request := sockflags.Request{Ports: []uint16{port}}
	for _, test := range []struct {
		name string
		caps []uintptr
		want []string
	}{
		{"both", []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}, nil},
		{"cap_sys_admin_alone", []uintptr{unix.CAP_SYS_ADMIN}, nil},
		{"no_cap_bpf", []uintptr{unix.CAP_PERFMON}, []string{sock.ReasonCapBPF}},
		{"no_cap_perfmon", []uintptr{unix.CAP_BPF}, []string{sock.ReasonCapPerfmon}},
		{"none", nil, []string{sock.ReasonCapBPF}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := start(t, ns, task{Mode: sockflags.ModeBPF, Request: request, DropCaps: true}, test.caps...)
			if !slices.Equal(got.Reasons, test.want) {
				t.Fatalf("reasons %v, want %v (%s)", got.Reasons, test.want, got.Err)
			}
			if test.want != nil {
				return
			}
			if got.Err != "" {
				t.Fatal(got.Err)
			}
			if want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true}}; !maps.Equal(got.Listeners, want) {
				t.Errorf("listeners %+v, want %+v", got.Listeners, want)
			}
			if len(got.Groups) != 1 || got.Groups[0].Count != 1 {
				t.Errorf("groups %+v, want one socket", got.Groups)
			}
		})
	}
}

func TestBPFNeedsCapSysAdminForAnotherNamespaceOnly(t *testing.T) {
	ns, id := withListener(t)
	home := kerneltest.New(t)
	do := task{Mode: sockflags.ModeBPF, NetNS: ns.Path(), Request: sockflags.Request{Ports: []uint16{port}}}
	// To open the namespace of another process. The exporter has other ways to do that.
	open := []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}

	got, _ := start(t, home, do, append(open, unix.CAP_SYS_ADMIN)...)
	if want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true}}; !maps.Equal(got.Listeners, want) {
		t.Errorf("with CAP_SYS_ADMIN: listeners %+v, want %+v (%s)", got.Listeners, want, got.Err)
	}

	got, _ = start(t, home, do, append(open, unix.CAP_BPF, unix.CAP_PERFMON)...)
	if want := []string{sock.ReasonCapSysAdmin}; !slices.Equal(got.Reasons, want) {
		t.Errorf("without: reasons %v, want %v (%s)", got.Reasons, want, got.Err)
	}
}

func TestPidfdNeedsExactlyCapSysPtraceAndCapDACReadSearch(t *testing.T) {
	ns, id := withListener(t)
	do := task{Mode: sockflags.ModePidfd, Request: sockflags.Request{Listeners: []sockflags.ListenerID{id}}}
	for _, test := range []struct {
		name       string
		caps       []uintptr
		found      bool
		shortfalls []string
	}{
		{"both", []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, true, nil},
		{"no_cap_sys_ptrace", []uintptr{unix.CAP_DAC_READ_SEARCH}, false, []string{sock.ReasonCapSysPtrace}},
		{"no_cap_dac_read_search", []uintptr{unix.CAP_SYS_PTRACE}, false, []string{sock.ReasonCapDACReadSearch}},
		{"none", nil, false, []string{sock.ReasonCapSysPtrace, sock.ReasonCapDACReadSearch}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := start(t, ns, do, test.caps...)
			if got.Err != "" {
				t.Fatal(got.Err)
			}
			if !slices.Equal(got.Shortfalls, test.shortfalls) {
				t.Errorf("shortfalls %v, want %v", got.Shortfalls, test.shortfalls)
			}
			want := map[uint64]sockflags.Flags{}
			if test.found {
				want[id.Cookie] = sockflags.Flags{ReuseAddr: true}
			}
			if !maps.Equal(got.Listeners, want) {
				t.Errorf("listeners %+v, want %+v", got.Listeners, want)
			}
		})
	}
}

// An ordinary user can read the flags of their own servers.
func TestPidfdWithoutCapabilitiesReadsProcessesOfTheSameUser(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	start(t, ns, task{Listen: true})
	id := listenerIn(t, ns, unix.AF_INET)

	got, _ := start(t, ns, task{Mode: sockflags.ModePidfd, Request: sockflags.Request{Listeners: []sockflags.ListenerID{id}}})

	if want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true}}; !maps.Equal(got.Listeners, want) {
		t.Errorf("listeners %+v, want %+v (%s)", got.Listeners, want, got.Err)
	}
}

func TestAutoFallsBackToPidfdAndSaysWhy(t *testing.T) {
	ns, id := withListener(t)
	do := task{Request: sockflags.Request{Listeners: []sockflags.ListenerID{id}, Ports: []uint16{port}}}

	got, _ := start(t, ns, do, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH)
	if want := []string{sock.ReasonCapBPF}; got.Mode != sockflags.ModePidfd || !slices.Equal(got.Shortfalls, want) {
		t.Errorf("mode %s, shortfalls %v; want pidfd, %v", got.Mode, got.Shortfalls, want)
	}
	if want := map[uint64]sockflags.Flags{id.Cookie: {ReuseAddr: true}}; !maps.Equal(got.Listeners, want) {
		t.Errorf("listeners %+v, want %+v (%s)", got.Listeners, want, got.Err)
	}

	got, _ = start(t, ns, do, unix.CAP_BPF, unix.CAP_PERFMON)
	if got.Mode != sockflags.ModeBPF || got.Shortfalls != nil {
		t.Errorf("with the capabilities: mode %s, shortfalls %v; want bpf, none", got.Mode, got.Shortfalls)
	}
}
