package check

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/report"
)

// asServer makes the test binary a server: its value is what it calls itself.
const asServer = "SOCKSTATE_TEST_AS_SERVER"

const asHelper = "helper"

// serve listens on the port, connects to itself, and closes the client's end of one of two
// connections. One whose name begins with "shared" only listens, with SO_REUSEPORT: "shared-any" on
// 0.0.0.0, others on 127.0.0.1.
// asHelper does nothing at all.
// A line on standard output says that all that is there.
func serve(name string) error {
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		return err
	}
	if name == asHelper {
		fmt.Fprintln(os.Stdout, "ready")
		for {
			_ = unix.Pause()
		}
	}
	if strings.HasPrefix(name, "udp:") {
		return serveUDP(name)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	addr := &unix.SockaddrInet4{Port: port, Addr: lo4.As4()}
	if name == "shared-any" {
		addr.Addr = [4]byte{}
	}
	if strings.HasPrefix(name, "shared") {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(fd, addr); err != nil {
		return err
	}
	if err := unix.Listen(fd, 8); err != nil {
		return err
	}
	if strings.HasPrefix(name, "shared") { // another one may get the connection
		fmt.Fprintln(os.Stdout, "ready")
		for {
			_ = unix.Pause()
		}
	}
	var clients, accepted []int
	for range 2 {
		client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(client, addr); err != nil {
			return err
		}
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		clients, accepted = append(clients, client), append(accepted, conn)
	}
	if err := unix.Close(clients[0]); err != nil {
		return err
	}
	if n, err := unix.Read(accepted[0], make([]byte, 1)); n != 0 || err != nil {
		return fmt.Errorf("want the end of what is read: %d, %w", n, err)
	}
	fmt.Fprintln(os.Stdout, "ready")
	for {
		_ = unix.Pause()
	}
}

// startServer starts one and returns its process id.
func startServer(t *testing.T, ns *kerneltest.NetNS, name string) int {
	t.Helper()
	cmd := ns.Command(t, "/proc/self/exe")
	cmd.Env = append(os.Environ(), asServer+"="+name)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("server said %q, %v", line, err)
	}
	return cmd.Process.Pid
}

func TestNamesWhoListensAndWhoHoldsConnections(t *testing.T) {
	ns := kerneltest.New(t)
	pid := startServer(t, ns, "opcua-server")
	judged := check(t, ns, ExitBlocked, "4840")
	p := &judged.Ports[0]
	if len(p.Listeners) != 1 || p.Listeners[0].Owner == nil || p.Listeners[0].Owner.Process != "opcua-server" || int(p.Listeners[0].Owner.PID) != pid ||
		p.Listeners[0].Owner.Processes != 1 {
		t.Fatalf("listeners %+v, want one of opcua-server, pid %d", p.Listeners, pid)
	}
	who := p.Listeners[0].Owner.String() // with the unit that these tests run in, if any
	if want := fmt.Sprintf("opcua-server (pid %d", pid); !strings.HasPrefix(who, want) {
		t.Errorf("owner %q, want %q", who, want)
	}
	wantAdvice(t, judged, who+" listens on 127.0.0.1:4840")
	if len(p.Holders) != 1 || p.Holders[0].Owner.String() != who || p.Holders[0].Sockets["close_wait"] != 1 || p.Holders[0].Sockets["established"] != 1 {
		t.Errorf("holders %+v, want %s with an established connection and one in CLOSE_WAIT", p.Holders, who)
	}

	text := run(t, command(t, ns, "4840"))
	for _, want := range []string{"\n    by " + who + "\n", "\n  " + who + " has open: 1 CLOSE_WAIT, 1 ESTABLISHED\n"} {
		if !strings.Contains(text.stdout, want) {
			t.Errorf("text\n%swant %q", text.stdout, want)
		}
	}
}

func TestBoundSocketsHaveAHolder(t *testing.T) {
	if hidesBound() {
		kerneltest.Skip(t, "this kernel does not show bound sockets")
	}
	ns := kerneltest.New(t)
	ns.Bind(t, at(any4), kerneltest.Options{})
	judged := check(t, ns, ExitBlocked, "4840")
	holders := judged.Ports[0].Holders
	if len(holders) != 1 || int(holders[0].Owner.PID) != os.Getpid() || holders[0].Sockets["close"] != 1 || len(holders[0].Sockets) != 1 {
		t.Errorf("holders %+v, want this process, %d, with a bound socket", holders, os.Getpid())
	}
}

func TestHostileNameStaysOnItsLine(t *testing.T) {
	ns := kerneltest.New(t)
	pid := startServer(t, ns, "x\n\x1b[2J\xff\"<b>")
	text := run(t, command(t, ns, "4840"))
	if want := fmt.Sprintf("    by \"x\\n\\x1b[2J\\xff\\\"<b>\" (pid %d", pid); !strings.Contains(text.stdout, want) {
		t.Errorf("text\n%qwant %s", text.stdout, want)
	}
	for _, out := range []string{text.stdout, run(t, command(t, ns, "--json", "4840")).stdout} {
		if strings.ContainsRune(out, '\x1b') || !utf8.ValidString(out) {
			t.Errorf("written as it is: %q", out)
		}
	}
}

// In a namespace that is another's, with its addresses and processes.
func TestLooksIntoTheNamespaceThatIsNamed(t *testing.T) {
	here, there := kerneltest.New(t), kerneltest.New(t)
	there.AddDummy(t, "only0", netip.MustParsePrefix("192.0.2.7/24"))
	pid := startServer(t, there, "opcua-server")
	check(t, here, ExitFree, "4840")
	judged := check(t, here, ExitBlocked, "--address=192.0.2.7", "--address=127.0.0.1", "--netns="+there.Path(), "4840")
	if l := judged.Ports[0].Listeners; len(l) != 1 || l[0].Owner == nil || int(l[0].Owner.PID) != pid {
		t.Errorf("listeners %+v, want that of pid %d", l, pid)
	}
	wantAnswer(t, "192.0.2.7", &judged.Ports[0].Binds[0].Without, free)
	wantAnswer(t, "127.0.0.1", &judged.Ports[0].Binds[1].Without, answer{report.Blocked, report.UntilClosed, blockersOf(&judged.Ports[0].Binds[1].Without)})
}

func blockersOf(a *report.Answer) string { return answerOf(a).Blockers }

func TestNamespaceNeedsThePrivilegeAndThatIsSaid(t *testing.T) {
	ns := kerneltest.New(t)
	file, err := os.Open(kerneltest.New(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := command(t, ns, "--netns=/proc/self/fd/3", "4840")
	asNobody(t, cmd)
	cmd.ExtraFiles = []*os.File{file}
	r := run(t, cmd)
	want := "sockstate_exporter check: error: --netns=/proc/self/fd/3: enter network namespace: needs CAP_SYS_ADMIN: " + syscall.EPERM.Error() + " (try --help)\n"
	if r.code != ExitError || r.stderr != want || r.stdout != "" {
		t.Errorf("exit status %d, error\n%swant %d,\n%s\n%s", r.code, r.stderr, ExitError, want, r.stdout)
	}
}
