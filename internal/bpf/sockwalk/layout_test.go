package sockwalk

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf/btf"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/sock"
)

// A kernel that has moved or dropped something is not walked, and the error says that it is the kernel.
func TestKernelsWithAnotherLayout(t *testing.T) {
	kerneltest.RequireRoot(t)
	for _, tt := range []struct{ of, member string }{
		{"net", "net_cookie"},
		{"net", "list"},
		{"netns_ipv4", "tcp_death_row"},
		{"inet_timewait_death_row", "hashinfo"},
		{"inet_hashinfo", "ehash"},
		{"inet_hashinfo", "ehash_mask"},
		{"sock_common", "skc_hash"},
		{"sock_common", "skc_nulls_node"},
		{"sock_common", "skc_net"},
		{"sock_common", "skc_reuse"},
		{"inet_timewait_sock", "tw_substate"},
	} {
		w, err := open(Options{}, func() (*btf.Spec, error) { return without(tt.of, tt.member) })
		if err == nil {
			_ = w.Close()
		}
		var unavailable *sock.UnavailableError
		if !errors.As(err, &unavailable) || unavailable.Reason != sock.ReasonUnsupported {
			t.Errorf("without %s.%s: %v, want %s", tt.of, tt.member, err, sock.ReasonUnsupported)
		}
	}
}

// without returns the kernel's types, but one member has another name.
func without(of, member string) (*btf.Spec, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	kernel = kernel.Copy()
	var s *btf.Struct
	if err := kernel.TypeByName(of, &s); err != nil {
		return nil, err
	}
	rename(s.Members, member)
	return kernel, nil
}

// rename looks for the member also in the structs and unions without a name.
func rename(members []btf.Member, name string) {
	for i := range members {
		m := &members[i]
		switch of := m.Type.(type) {
		case *btf.Struct:
			if m.Name == "" {
				rename(of.Members, name)
			}
		case *btf.Union:
			if m.Name == "" {
				rename(of.Members, name)
			}
		}
		if m.Name == name {
			m.Name = "another"
		}
	}
}
