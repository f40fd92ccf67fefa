package missing

import (
	"testing"

	"sockstate_exporter/internal/sock"
)

func TestHintNamesWhatIsLostAndTheCommand(t *testing.T) {
	ordinary := []sock.Feature{
		{Name: "owners", Mode: "procfs", Works: true},
		{Name: "bind_tracing", Reason: sock.ReasonCapBPF},
		{Name: "reuse_flags", Mode: "pidfd", Works: true},
	}
	const all = "the processes of other users' sockets, failed binds and SO_REUSEADDR of other users' sockets"
	for name, tt := range map[string]struct {
		host Host
		want Hint
	}{
		"ordinary user": {Host{Features: ordinary, Program: "/opt/a"}, Hint{all, "sudo /opt/a", "docs/privileges.md"}},
		"strange path":  {Host{Features: ordinary, Program: "/opt/it's a"}, Hint{all, `sudo '/opt/it'\''s a'`, "docs/privileges.md"}},
		"go run":        {Host{Features: ordinary, Program: "/tmp/go-build26/b001/exe/a"}, Hint{all, "go build && sudo ./a", "docs/privileges.md"}},
		"container":     {Host{Features: ordinary, Root: true, Program: "/opt/a"}, Hint{all, "", "docs/privileges.md"}},
		"without BPF":   {Host{Features: ordinary, Ptrace: true, Root: true}, Hint{"failed binds", "", "docs/privileges.md"}},
		"old kernel":    {Host{Features: []sock.Feature{{Name: "bind_tracing", Reason: sock.ReasonNoBTF}}}, Hint{}},
		"everything":    {Host{Features: []sock.Feature{{Name: "owners", Mode: "bpf", Works: true}, {Name: "bind_tracing", Works: true}}}, Hint{}},
	} {
		if got := NewHint(tt.host); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
