package netlinkdiag_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/unixsocket"
	"sockstate_exporter/netlinkdiag"
	"sockstate_exporter/netlinkdiag/diagtest"
)

// dumpUnix returns the Unix sockets of the namespace, by inode.
func dumpUnix(t *testing.T, ns *kerneltest.NetNS, req netlinkdiag.UnixRequest) map[uint32]netlinkdiag.UnixSocket {
	t.Helper()
	out := make(map[uint32]netlinkdiag.UnixSocket)
	for s, err := range dialNetNS(t, ns).DumpUnix(t.Context(), req) {
		var lacks *netlinkdiag.ModuleError
		switch {
		case errors.As(err, &lacks):
			kerneltest.Skip(t, "%v", err)
		case err != nil:
			t.Fatal(err)
		}
		out[s.Inode] = s
	}
	return out
}

func inodeOf(t *testing.T, fd int) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

func TestUnixListenersHaveTheirFileTheirQueueAndTheirOwner(t *testing.T) {
	ns := kerneltest.New(t)
	path := filepath.Join(t.TempDir(), "app.sock")
	listener := unixsocket.Open(t, ns, unix.SOCK_STREAM, path)
	if err := unix.Listen(listener, 5); err != nil {
		t.Fatal(err)
	}
	var clients []int
	for range 3 {
		client := unixsocket.Open(t, ns, unix.SOCK_STREAM, "")
		if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}

	want := netlinkdiag.UnixSocket{
		Type: netlinkdiag.UnixStream, State: netlinkdiag.StateListen, Inode: inodeOf(t, listener), Name: path,
		File:    netlinkdiag.UnixFile{Inode: uint32(st.Ino), Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev)},
		HasFile: true, RQueue: 3, WQueue: 5, UID: uint32(os.Getuid()), HasUID: true,
	}
	got := dumpUnix(t, ns, netlinkdiag.UnixRequest{})[want.Inode]
	want.Cookie = got.Cookie
	if got != want {
		t.Errorf("the listener is\n%+v, want\n%+v", got, want)
	}
	cookie, err := unix.GetsockoptUint64(listener, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil || got.Cookie != cookie {
		t.Errorf("its cookie is %d, want %d (%v)", got.Cookie, cookie, err)
	}

	accepted, _, err := unix.Accept(listener)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accepted)
	all := dumpUnix(t, ns, netlinkdiag.UnixRequest{States: netlinkdiag.States(netlinkdiag.StateEstablished)})
	server, client := all[inodeOf(t, accepted)], all[inodeOf(t, clients[0])]
	if server.Name != path || server.State != netlinkdiag.StateEstablished || server.Peer != client.Inode || client.Peer != server.Inode || client.Inode == 0 {
		t.Errorf("server %+v and client %+v, want the listener's path, and each the other's peer", server, client)
	}
	if s, ok := all[want.Inode]; ok {
		t.Errorf("asked for connections, got %+v", s)
	}
}

func TestUnixNamesAndTypes(t *testing.T) {
	ns := kerneltest.New(t)
	dir := t.TempDir()
	long := filepath.Join(dir, strings.Repeat("x", 108-len(dir)-1))
	for _, test := range []struct {
		typ            int
		bind, name     string
		abstract, file bool
	}{
		{unix.SOCK_DGRAM, filepath.Join(dir, "log\n\xff"), filepath.Join(dir, "log\n\xff"), false, true},
		{unix.SOCK_SEQPACKET, "@a\x00b", "a\x00b", true, false},
		{unix.SOCK_DGRAM, "", "", false, false},
		{unix.SOCK_STREAM, long[:107], long[:107], false, true},
	} {
		inode := inodeOf(t, unixsocket.Open(t, ns, test.typ, test.bind))
		got := dumpUnix(t, ns, netlinkdiag.UnixRequest{States: netlinkdiag.States(netlinkdiag.StateClose)})[inode]
		if int(got.Type) != test.typ || got.Name != test.name || got.Abstract != test.abstract || got.HasFile != test.file || got.State != netlinkdiag.StateClose {
			t.Errorf("socket bound to %q is %+v, want %+v", test.bind, got, test)
		}
	}
}

func TestUnixNameStaysWhenTheFileIsGone(t *testing.T) {
	ns := kerneltest.New(t)
	path := filepath.Join(t.TempDir(), "app.sock")
	first := unixsocket.Open(t, ns, unix.SOCK_DGRAM, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := unixsocket.Open(t, ns, unix.SOCK_DGRAM, path)
	all := dumpUnix(t, ns, netlinkdiag.UnixRequest{})
	a, b := all[inodeOf(t, first)], all[inodeOf(t, second)]
	if a.Name != path || b.Name != path || a.File.Inode == b.File.Inode {
		t.Errorf("got %+v and %+v, want one name and two files", a, b)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || b.File.Inode != uint32(st.Ino) {
		t.Errorf("the file has inode %d (%v), and the second socket %d", st.Ino, err, b.File.Inode)
	}
}

// /proc/net/unix is an independent count. It has the connections that wait for accept(), too, with
// inode 0.
func TestUnixSocketsAreThoseOfProcfs(t *testing.T) {
	ns := kerneltest.New(t)
	dir := t.TempDir()
	for i := range 200 {
		fd := unixsocket.Open(t, ns, []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}[i%3], filepath.Join(dir, fmt.Sprint(i)))
		if i%3 == 0 && i%2 == 0 {
			if err := unix.Listen(fd, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	var want []string
	ns.Do(t, func() {
		file, err := os.Open("/proc/thread-self/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			// Num RefCount Protocol Flags Type St Inode Path
			if f := strings.Fields(lines.Text()); len(f) > 6 && f[0] != "Num" && f[6] != "0" {
				want = append(want, fmt.Sprint(f[6], f[4], f[3] == "00010000", f[7:]))
			}
		}
	})
	all := dumpUnix(t, ns, netlinkdiag.UnixRequest{})
	if len(want) != 200 || len(all) != len(want) {
		t.Errorf("procfs has %d sockets, the dump %d, want 200", len(want), len(all))
	}
	got := make(map[string]bool)
	for _, s := range all {
		got[fmt.Sprint(s.Inode, fmt.Sprintf("%04X", uint8(s.Type)), s.State == netlinkdiag.StateListen, []string{s.Name})] = true
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("procfs has %s, the dump does not", line)
		}
	}
}

func TestUnixErrorsSayWhatWasAsked(t *testing.T) {
	c, err := netlinkdiag.Dial(nil)
	if err != nil {
		kerneltest.SkipOrFatal(t, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range c.DumpUnix(context.Background(), netlinkdiag.UnixRequest{}) {
		if !errors.Is(err, netlinkdiag.ErrClosed) || err.Error() != "sock_diag unix: open: connection closed" {
			t.Errorf("dump on a closed connection: %v", err)
		}
	}
}

// answers is a Transport with what a kernel answers to one request.
type answers [][]byte

func (*answers) Send(m netlink.Message) (netlink.Message, error) {
	m.Header.Sequence = 1
	return m, nil
}
func (*answers) SetReadDeadline(time.Time) error { return nil }
func (*answers) Close() error                    { return nil }

func (a *answers) Receive(b []byte) (int, error) {
	if len(*a) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(b, (*a)[0])
	*a = (*a)[1:]
	return n, nil
}

func decodeUnix(t *testing.T, datagrams ...[]byte) (sockets []netlinkdiag.UnixSocket, err error) {
	t.Helper()
	a := answers(datagrams)
	c, err := netlinkdiag.Dial(&netlinkdiag.Config{Open: func() (netlinkdiag.Transport, error) { return &a, nil }, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for s, err := range c.DumpUnix(noContext, netlinkdiag.UnixRequest{}) {
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// unixMessage is a struct unix_diag_msg with attributes behind it.
func unixMessage(family, typ, state byte, attributes ...byte) []byte {
	data := []byte{family, typ, state, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0}
	return diagtest.Message(unix.SOCK_DIAG_BY_FAMILY, 0, 1, append(data, attributes...))
}

func TestUnixMalformedMessages(t *testing.T) {
	for name, message := range map[string][]byte{
		"short":        diagtest.Message(unix.SOCK_DIAG_BY_FAMILY, 0, 1, make([]byte, 15)),
		"family":       unixMessage(unix.AF_INET, 1, 10),
		"state":        unixMessage(unix.AF_UNIX, 1, 12),
		"attribute":    unixMessage(unix.AF_UNIX, 1, 10, 1, 2, 3),
		"file":         unixMessage(unix.AF_UNIX, 1, 10, diagtest.Attribute(1, make([]byte, 4))...),
		"queue":        unixMessage(unix.AF_UNIX, 1, 10, diagtest.Attribute(4, make([]byte, 4))...),
		"peer":         unixMessage(unix.AF_UNIX, 1, 10, diagtest.Attribute(2, nil)...),
		"user":         unixMessage(unix.AF_UNIX, 1, 10, diagtest.Attribute(7, make([]byte, 3))...),
		"header alone": make([]byte, 3),
	} {
		sockets, err := decodeUnix(t, message)
		var malformed *netlinkdiag.MessageError
		if len(sockets) != 0 || !errors.As(err, &malformed) {
			t.Errorf("%s: got %+v and %v, want a MessageError", name, sockets, err)
		}
	}
	sockets, err := decodeUnix(t, unixMessage(unix.AF_UNIX, 1, 10, diagtest.Attribute(99, []byte("new"))...), diagtest.Done(1, 0))
	if err != nil || len(sockets) != 1 || sockets[0].Inode != 1 || sockets[0].Cookie != 3<<32|2 {
		t.Errorf("with an attribute of a newer kernel: %+v, %v", sockets, err)
	}
}

// FuzzDecodeUnix checks that any datagram yields valid sockets, or an error that says what is wrong.
func FuzzDecodeUnix(f *testing.F) {
	f.Add(unixMessage(unix.AF_UNIX, 1, 10, slices.Concat(
		diagtest.Attribute(0, []byte("/run/app.sock\x00")), diagtest.Attribute(1, make([]byte, 8)),
		diagtest.Attribute(2, make([]byte, 4)), diagtest.Attribute(4, make([]byte, 8)), diagtest.Attribute(7, make([]byte, 4)),
	)...))
	f.Add(unixMessage(unix.AF_UNIX, 2, 7, diagtest.Attribute(0, []byte("\x00abstract"))...))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		sockets, err := decodeUnix(t, datagram, diagtest.Done(1, 0))
		if err != nil {
			requireKnownError(t, err)
		}
		for _, s := range sockets {
			if s.State < netlinkdiag.StateEstablished || s.State > netlinkdiag.StateClosing || s.File.Minor >= 1<<20 || s.File.Major >= 1<<12 {
				t.Errorf("%+v is out of range", s)
			}
		}
	})
}
