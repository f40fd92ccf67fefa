package missing

import (
	"path"
	"strings"

	"sockstate_exporter/internal/sock"
	"sockstate_exporter/internal/words"
)

// A Hint says what the exporter may not see for want of privileges, and how that changes. It is empty if
// nothing is lost.
type Hint struct{ Lost, Command, See string }

// A Host is what a Hint depends on.
type Host struct {
	Features []sock.Feature
	Root     bool   // the exporter's user is 0: then a container keeps the capabilities from it
	Ptrace   bool   // it has CAP_SYS_PTRACE
	Program  string // the path of the exporter
}

// NewHint returns the hint for a host.
func NewHint(h Host) Hint {
	var lost []string
	for i := range h.Features {
		f := &h.Features[i]
		denied := !f.Works && strings.HasPrefix(f.Reason, "cap_")
		switch {
		case f.Name == "bind_tracing" && denied:
			lost = append(lost, "failed binds")
		case f.Name == "owners" && (denied || f.Mode == "procfs" && !h.Ptrace):
			lost = append(lost, "the processes of other users' sockets")
		case f.Name == "reuse_flags" && (denied || f.Mode == "pidfd" && !h.Ptrace):
			lost = append(lost, "SO_REUSEADDR of other users' sockets")
		}
	}
	if len(lost) == 0 {
		return Hint{}
	}
	hint := Hint{Lost: words.And(lost), See: "docs/privileges.md"}
	switch dir, name := path.Split(h.Program); {
	case h.Root:
	case strings.Contains(dir, "/go-build") && path.Base(dir) == "exe": // go run deletes it when it ends
		hint.Command = "go build && sudo ./" + quoted(name)
	default:
		hint.Command = "sudo " + quoted(h.Program)
	}
	return hint
}

// quoted is a word of a shell's command line.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(words.OneLine(word), "'", `'\''`) + "'"
}
