package unixdiag

import (
	"errors"
	"os/exec"
	"testing"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/netlinkdiag"
)

const path = "/run/app.sock"

// listener is one whose file has the inode.
func listener(file uint32, name string, pid int) unixsock.Socket {
	s := unixsock.Socket{UnixSocket: netlinkdiag.UnixSocket{
		Type: netlinkdiag.UnixStream, State: netlinkdiag.StateListen, Inode: uint32(pid), Name: path,
		File: netlinkdiag.UnixFile{Inode: file}, HasFile: true,
	}}
	if name != "" {
		s.Owner = owner.Owner{Process: name, PID: pid, Unit: name + ".service", Processes: 1}
		s.There = unixsock.File{Kind: unixsock.FileAbsent}
	}
	return s
}

func TestSentences(t *testing.T) {
	file := unixsock.File{Kind: unixsock.FileSocket, Inode: 7}
	dgram := listener(7, "rsyslogd", 3)
	dgram.Type, dgram.State = netlinkdiag.UnixDatagram, netlinkdiag.StateClose
	bound := listener(7, "", 3)
	bound.State = netlinkdiag.StateClose
	for _, tt := range []struct {
		name      string
		seen      unixsock.Seen
		code      codes.Code
		of        string
		unreached string
	}{
		{"free", unixsock.Seen{File: unixsock.File{Kind: unixsock.FileAbsent}}, "", "", ""},
		{"in use", unixsock.Seen{File: file, Sockets: []unixsock.Socket{listener(7, "new", 2)}}, codes.UnixInUse,
			"new (pid 2, new.service) listens on /run/app.sock", ""},
		{"datagrams", unixsock.Seen{File: file, Sockets: []unixsock.Socket{dgram}}, codes.UnixInUse,
			"rsyslogd (pid 3, rsyslogd.service) receives datagrams on /run/app.sock", ""},
		{"bound only", unixsock.Seen{File: file, Sockets: []unixsock.Socket{bound}}, codes.UnixInUse,
			"a process that is not known has bound, and does not listen on, /run/app.sock", ""},
		{"shadowed", unixsock.Seen{File: file, Sockets: []unixsock.Socket{listener(6, "old", 1), listener(7, "new", 2)}}, codes.UnixInUse,
			"new (pid 2, new.service) listens on /run/app.sock",
			"unix_shadowed: old (pid 1, old.service) listens on /run/app.sock, and no client reaches it; the path leads to the socket of new (pid 2, new.service)"},
		{"unlinked", unixsock.Seen{File: unixsock.File{Kind: unixsock.FileAbsent}, Sockets: []unixsock.Socket{listener(6, "old", 1)}}, "",
			"", "unix_unlinked: old (pid 1, old.service) listens on /run/app.sock, and no client reaches it; its file is gone"},
		{"answered", unixsock.Seen{File: file, Lack: errors.New("x"), Try: unixsock.Answered}, codes.UnixInUse,
			"somebody listens on /run/app.sock, whose socket could not be seen", ""},
		{"stale", unixsock.Seen{File: file}, codes.UnixStaleFile, "the file /run/app.sock is left over, and nobody listens there", ""},
		{"refused", unixsock.Seen{File: file, Lack: errors.New("x"), Try: unixsock.Refused}, codes.UnixStaleFile,
			"the file /run/app.sock is left over, and nobody listens there", ""},
		{"perhaps stale", unixsock.Seen{File: file, Lack: errors.New("needs CAP_SYS_ADMIN")}, codes.UnixStaleFile,
			"the file /run/app.sock is probably left over: no socket that could be seen has it (needs CAP_SYS_ADMIN)", ""},
		{"no socket", unixsock.Seen{File: unixsock.File{Kind: unixsock.FileOther, What: "a directory"}}, codes.UnixNoSocket,
			"a directory is at /run/app.sock", ""},
		{"no directory", unixsock.Seen{File: unixsock.File{Kind: unixsock.DirMissing}}, codes.UnixDirectoryMissing,
			"the directory /run does not exist", ""},
		{"denied", unixsock.Seen{File: unixsock.File{Kind: unixsock.DirDenied, Err: errors.New("read-only file system")}}, codes.UnixDenied,
			"a file in /run may not be made (read-only file system)", ""},
		{"not known", unixsock.Seen{File: unixsock.File{Err: errors.New("slow")}}, codes.Unknown,
			"the exporter could not look at /run/app.sock (slow)", ""},
	} {
		tt.seen.Name = unixsock.Name{Path: path}
		v := unixsock.Judge(tt.seen)
		d, u := Of(&v), Unreached(&v)
		if d == nil {
			d = new(diagnosis.Diagnosis)
		}
		unreached := ""
		if u != nil {
			unreached = string(u.Code) + ": " + u.Sentence
		}
		if d.Code != tt.code || d.Sentence != tt.of || unreached != tt.unreached {
			t.Errorf("%s: %s: %q, %q\nwant %s: %q, %q", tt.name, d.Code, d.Sentence, unreached, tt.code, tt.of, tt.unreached)
		}
	}
}

// The command is one that a shell takes as it is meant.
func TestRemoveCommandIsQuotedForAShell(t *testing.T) {
	for _, path := range []string{"/run/app.sock", "-x/../a", "/run/a b'c", "/run/$(reboot)`", "/run/\n\xff\\'é"} {
		out, err := exec.Command("bash", "-c", "rm() { printf %s \"$1\"; }; "+RemoveCommand(path)).Output()
		want := path
		if path[0] == '-' {
			want = "./" + path
		}
		if err != nil || string(out) != want {
			t.Errorf("%s removes %q, want %q (%v)", RemoveCommand(path), out, want, err)
		}
	}
}
