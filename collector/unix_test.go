package collector

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/bpf/bindtrace"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixfailures"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/unixstate"
	"sockstate_exporter/internal/unixwatch"
	"sockstate_exporter/netlinkdiag"
)

// someUnix has a path with two listeners, one that is stale, one that may be, one that is free, and an
// abstract name.
func someUnix() unixstate.State {
	file := unixsock.File{Kind: unixsock.FileSocket, Inode: 7}
	listener := func(inode uint32, process string) unixsock.Socket {
		return unixsock.Socket{
			UnixSocket: netlinkdiag.UnixSocket{
				Type: netlinkdiag.UnixStream, State: netlinkdiag.StateListen, Name: "/run/app.sock", RQueue: 6, WQueue: 5,
				HasFile: true, File: netlinkdiag.UnixFile{Inode: inode},
			},
			Owner: owner.Owner{Process: process, PID: int(inode), Unit: "app.service", Processes: 1},
			There: file,
		}
	}
	judge := func(name string, abstract bool, file unixsock.File, lack error, sockets ...unixsock.Socket) unixwatch.Path {
		return unixwatch.Path{Verdict: unixsock.Judge(unixsock.Seen{
			Name: unixsock.Name{Path: name, Abstract: abstract}, File: file, Sockets: sockets, Lack: lack,
		})}
	}
	shared := judge("/run/app.sock", false, file, nil, listener(6, "old"), listener(7, "new\nname"))
	shared.Shadowed, shared.Unlinked = true, true
	return unixstate.State{
		Failures: &unixfailures.State{Counts: []bindtrace.UnixCount{
			{Netns: ownNetns, Errno: unix.EADDRINUSE, N: 3}, {Netns: ownNetns, N: 1}, {Errno: unix.ENOENT, N: 2},
		}},
		Watch: &unixwatch.State{Took: time.Millisecond, Dropped: 4, Paths: []unixwatch.Path{
			shared,
			judge("/run/a b", false, file, nil),
			judge("/run/perhaps", false, file, errors.New("not all was seen")),
			judge("/run/free", false, unixsock.File{Kind: unixsock.FileAbsent}, nil),
			judge("app", true, unixsock.File{}, nil, listener(8, "abstract")),
		}},
	}
}

func TestUnixSockets(t *testing.T) {
	c, _ := collectorOf(everyMetric(t))
	var got strings.Builder
	for line := range strings.Lines(string(exposition(t, c))) {
		if strings.HasPrefix(line, "sockstate_unix_") {
			got.WriteString(line)
		}
	}
	const want = `sockstate_unix_bind_failures_total{errno="EADDRINUSE"} 3
sockstate_unix_bind_failures_total{errno="other"} 1
sockstate_unix_bind_failures_total{errno="ENOENT",netns="other"} 2
sockstate_unix_listener_accept_queue{path="/run/app.sock"} 6
sockstate_unix_listener_accept_queue{path="@app"} 6
sockstate_unix_listener_accept_queue_limit{path="/run/app.sock"} 5
sockstate_unix_listener_accept_queue_limit{path="@app"} 5
sockstate_unix_listener_info{path="/run/app.sock",process="new\uFFFDname",type="stream",unit="app.service"} 1
sockstate_unix_listener_info{path="@app",process="abstract",type="stream",unit="app.service"} 1
sockstate_unix_path_stale{path="\"/run/a b\""} 1
sockstate_unix_path_stale{path="/run/app.sock"} 0
sockstate_unix_path_stale{path="/run/free"} 0
sockstate_unix_path_unreached_listeners{diagnosis="unix_shadowed",path="/run/app.sock"} 1
sockstate_unix_path_unreached_listeners{diagnosis="unix_unlinked",path="/run/app.sock"} 0
sockstate_unix_paths_dropped 4
`
	if got.String() != strings.ReplaceAll(want, `\uFFFD`, "\uFFFD") {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
