package diagnosis

import (
	"path"
	"strings"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/words"
)

// SameProgram says that the holder is another instance of the program that made the call. A name proves
// nothing: any process can have it. So it takes the executable, or the systemd service, too.
func (f *Facts) SameProgram(b *Blocker) bool {
	h := &b.Holder
	sameExe := h.Exe != "" && h.Exe == f.By.Exe && h.Container == f.By.Container && !runsOthers(path.Base(h.Exe))
	sameService := strings.HasSuffix(h.Unit, ".service") && h.Unit == f.By.Unit && h.Container == f.By.Container && h.Process == f.Process
	return sameExe || sameService
}

// namesake says that the holder may be another instance.
func (f *Facts) namesake(b *Blocker) bool {
	return f.SameProgram(b) || f.Process != "" && b.Holder.Process == f.Process && !runsOthers(f.Process) && !runsOthers(path.Base(b.Holder.Exe))
}

// runsOthers says that a program runs other programs, or serves for others: two of its processes may be of
// different servers. It knows python3.11 by python.
func runsOthers(name string) bool {
	switch strings.TrimRight(name, "0123456789.-") {
	case "python", "pypy", "uwsgi", "gunicorn", "uvicorn", "java", "node", "nodejs", "deno", "bun", "perl", "ruby", "puma", "php", "php-cgi", "lua",
		"luajit", "tclsh", "guile", "Rscript", "julia", "mono", "mono-sgen", "dotnet", "beam", "beam.smp", "erl", "wine", "wine-preloader", "wasmtime",
		"sh", "bash", "dash", "ash", "zsh", "ksh", "busybox", "sudo", "env",
		"systemd", "supervisord", "docker-proxy", "rootlessport", "slirp", "pasta", "conmon", "runc", "crun", "socat", "nc", "nc.openbsd", "nc.traditional", "ncat", "netcat",
		"ssh", "sshd", "sshd-session", "kubectl":
		return true
	default:
		return false
	}
}

// otherInstance follows the remedy where the holder has the name of the program that made the call, and
// no more is known.
func otherInstance(h *owner.Owner) string {
	return " It has the name of the program that failed, " + words.Name(h.Process) + ": it may be another instance of it."
}
