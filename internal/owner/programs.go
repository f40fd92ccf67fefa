package owner

import "strings"

// RunsOthers says that a program runs other programs, or serves for others: two of its processes may be of
// different servers. It knows python3.11 by python.
func RunsOthers(name string) bool {
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
