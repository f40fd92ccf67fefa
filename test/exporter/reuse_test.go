package exporter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/test/launch"
)

// Programs in three languages open listeners as their arguments say, "ADDRESS PORT REUSEADDR
// REUSEPORT" each, print the same with what getsockopt answers, and wait for the end of their
// standard input.

const listenInC = `
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv) {
	for (int i = 1; i + 3 < argc; i += 4) {
		struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[i + 1]))};
		struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port};
		int is6 = strchr(argv[i], ':') != NULL, on = 1, addr, port;
		struct sockaddr *sa = is6 ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
		socklen_t len = sizeof(int);
		int fd = socket(is6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
		inet_pton(is6 ? AF_INET6 : AF_INET, argv[i], is6 ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr);
		if (atoi(argv[i + 2]) && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)) return perror("SO_REUSEADDR"), 1;
		if (atoi(argv[i + 3]) && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on)) return perror("SO_REUSEPORT"), 1;
		if (bind(fd, sa, is6 ? sizeof v6 : sizeof v4)) return perror("bind"), 1;
		if (listen(fd, 5)) return perror("listen"), 1;
		if (getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &addr, &len)) return perror("getsockopt"), 1;
		if (getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &port, &len)) return perror("getsockopt"), 1;
		printf("%s %s %d %d\n", argv[i], argv[i + 1], !!addr, !!port);
	}
	printf("end\n");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}
`

const listenInPython = `
import socket, sys
held = []
for i in range(1, len(sys.argv), 4):
    address, port, addr, rport = sys.argv[i:i+4]
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if addr == "1":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rport == "1":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((address, int(port)))
    s.listen()
    held.append(s)
    print(address, port, *(int(s.getsockopt(socket.SOL_SOCKET, o) != 0) for o in (socket.SO_REUSEADDR, socket.SO_REUSEPORT)))
print("end", flush=True)
sys.stdin.read()
`

// listenAsGo opens them by net.ListenConfig, which sets SO_REUSEADDR and asks for MPTCP first.
func listenAsGo(args []string) error {
	for i := 0; i+3 < len(args); i += 4 {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			controlErr := raw.Control(func(fd uintptr) {
				for option, value := range map[int]string{unix.SO_REUSEADDR: args[i+2], unix.SO_REUSEPORT: args[i+3]} {
					if e := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, int(value[0]-'0')); e != nil {
						err = e
					}
				}
			})
			if controlErr != nil {
				return controlErr
			}
			return err
		}}
		network := "tcp4" // by "tcp" 0.0.0.0 becomes [::]
		if netip.MustParseAddr(args[i]).Is6() {
			network = "tcp6"
		}
		l, err := config.Listen(context.Background(), network, net.JoinHostPort(args[i], args[i+1]))
		if err != nil {
			return err
		}
		defer l.Close()
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("the listener is a %T", l)
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			return err
		}
		var answers [2]int
		err = raw.Control(func(fd uintptr) {
			for j, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				answers[j], err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
			}
		})
		if err != nil {
			return err
		}
		fmt.Println(args[i], args[i+1], answers[0], answers[1])
	}
	fmt.Println("end")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// programs make the command of each language. There is none where its tools are not.
func programs() map[string]func(*testing.T, *kerneltest.NetNS, []string) *kerneltest.Cmd {
	return map[string]func(*testing.T, *kerneltest.NetNS, []string) *kerneltest.Cmd{
		"C": func(t *testing.T, ns *kerneltest.NetNS, args []string) *kerneltest.Cmd {
			t.Helper()
			gcc := kerneltest.RequireCommand(t, "gcc")
			binary := filepath.Join(t.TempDir(), "listen")
			compile := exec.CommandContext(t.Context(), gcc, "-Wall", "-o", binary, "-x", "c", "-")
			compile.Stdin = strings.NewReader(listenInC)
			if out, err := compile.CombinedOutput(); err != nil {
				t.Fatalf("gcc: %v\n%s", err, out)
			}
			return ns.Command(t, binary, args...)
		},
		"Go": func(t *testing.T, ns *kerneltest.NetNS, args []string) *kerneltest.Cmd {
			t.Helper()
			return launch.InRole(t, ns, "listen", args...)
		},
		"Python": func(t *testing.T, ns *kerneltest.NetNS, args []string) *kerneltest.Cmd {
			t.Helper()
			return ns.Command(t, kerneltest.RequireCommand(t, "python3"), append([]string{"-c", listenInPython}, args...)...)
		},
	}
}

// opened starts the program and reads what it says of its listeners.
func opened(t *testing.T, cmd *kerneltest.Cmd) [][4]string {
	t.Helper()
	cmd.Stderr = os.Stderr
	_, stdout := reexec.StartPiped(t, cmd)
	var out [][4]string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "end" {
		f := strings.Fields(lines.Text())
		if len(f) != 4 {
			t.Fatalf("the program says %q", lines.Text())
		}
		out = append(out, [4]string(f))
	}
	if lines.Text() != "end" {
		t.Fatalf("the program ended after %q", out)
	}
	return out
}

// flagRows are the metrics of listeners: a group has a flag if all its sockets have.
func flagRows(listeners [][4]string) map[string]float64 {
	out := make(map[string]float64)
	for _, l := range listeners {
		family := "ipv4"
		if netip.MustParseAddr(l[0]).Is6() {
			family = "ipv6"
		}
		for i, metric := range []string{"sockstate_tcp_listener_reuseaddr", "sockstate_tcp_listener_reuseport"} {
			row := fmt.Sprintf(`%s{address="%s",family="%s",port="%s"}`, metric, l[0], family, l[1])
			before, there := out[row]
			out[row] = float64(l[2+i][0] - '0')
			if there {
				out[row] = min(out[row], before)
			}
		}
	}
	return out
}

func flagsOf(t *testing.T, e *exporter) map[string]float64 {
	t.Helper()
	return samples(t, e, "sockstate_tcp_listener_reuseaddr", "sockstate_tcp_listener_reuseport")
}

// startWithFlags starts an exporter that reads flags by eBPF.
func startWithFlags(t *testing.T, ns *kerneltest.NetNS) *exporter {
	t.Helper()
	kerneltest.RequireRoot(t)
	e := start(t, ns, "--watch.exclude=10048")
	if f := featureOf(t, e, "reuse_flags"); f.mode != "bpf" {
		kerneltest.Skip(t, "flags are read by %q here: %s\n%s", f.mode, f.reason, e.Log)
	}
	return e
}

func TestReuseFlagsAgreeWithGetsockopt(t *testing.T) {
	args := strings.Fields(`
		127.0.0.1 4841 0 0    ::1       4842 1 0    127.0.0.1 4843 0 1    ::1       4844 1 1
		::        4845 0 0    0.0.0.0   4846 1 0    ::        4847 0 1    0.0.0.0   4848 1 1
		127.0.0.1 4850 0 1    127.0.0.1 4850 0 1
		::1       4851 1 1    ::1       4851 1 1    ::1       4851 1 1
		127.0.0.1 4852 1 1    127.0.0.1 4852 0 1    127.0.0.1 4852 1 1`)
	for language, program := range programs() {
		t.Run(language, func(t *testing.T) {
			ns := kerneltest.New(t)
			e := startWithFlags(t, ns)
			listeners := opened(t, program(t, ns, args))
			if len(listeners) != len(args)/4 {
				t.Fatalf("%d listeners, want %d: %v", len(listeners), len(args)/4, listeners)
			}
			for i, l := range listeners {
				if want := [4]string(args[4*i : 4*i+4]); l != want {
					t.Errorf("getsockopt says %v, want %v", l, want)
				}
			}
			want := flagRows(listeners)
			if len(want) != 2*11 {
				t.Fatalf("%d rows, want those of 11 groups", len(want))
			}
			if got := flagsOf(t, e); !maps.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestChangedFlagShowsAtTheNextScrape(t *testing.T) {
	ns := kerneltest.New(t)
	e := startWithFlags(t, ns)
	l := ns.Listen(t, loopback(4840), kerneltest.Options{})
	for _, on := range []int{0, 1, 0, 1} {
		if err := unix.SetsockoptInt(l.FD(), unix.SOL_SOCKET, unix.SO_REUSEADDR, on); err != nil {
			t.Fatal(err)
		}
		want := flagRows([][4]string{{"127.0.0.1", "4840", fmt.Sprint(on), "0"}})
		if got := flagsOf(t, e); !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}

// A program that names its port in the range of outgoing connections may lose it to one of these.
func TestPortsThatAnOutgoingConnectionCanTake(t *testing.T) {
	own, blue, dir := kerneltest.New(t), kerneltest.New(t), pinDir(t)
	pin(t, blue, dir, "blue")
	for _, ns := range []*kerneltest.NetNS{own, blue} {
		ns.Sysctl(t, "net.ipv4.ip_local_port_range", "48400 48499")
		ns.Sysctl(t, "net.ipv4.ip_local_reserved_ports", "48401,48410-48419")
	}
	of := make(map[uint16]*kerneltest.Listener)
	for _, port := range []uint16{48399, 48400, 48401, 48402, 48415, 48499, 48500} {
		of[port] = own.Listen(t, loopback(port), reused())
	}
	kernels := own.Listen(t, loopback(0), reused())
	own.Listen(t, netip.AddrPortFrom(allIPv6, 48402), v6only())
	blue.Listen(t, loopback(48450), reused())
	e := everything(t, own, "--netns="+dir+"/*", fmt.Sprintf("--watch.port=%d", kernels.Port()))

	unreserved := func() []string {
		var found []string
		for line := range strings.Lines(e.Get(t, "/metrics")) {
			if strings.HasPrefix(line, "sockstate_tcp_port_unreserved{") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		return found
	}
	check := func(want ...string) {
		t.Helper()
		for i := range want {
			want[i] = "sockstate_tcp_port_unreserved{" + want[i]
		}
		if got := unreserved(); !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	check(`port="48400"} 1`, `port="48402"} 1`, `port="48499"} 1`, `netns="blue",port="48450"} 1`)

	of[48400].Close()
	own.Sysctl(t, "net.ipv4.ip_local_reserved_ports", "48402")
	check(`port="48400"} 0`, `port="48401"} 1`, `port="48402"} 0`, `port="48415"} 1`, `port="48499"} 1`, `netns="blue",port="48450"} 1`)
}
