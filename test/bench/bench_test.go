package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// Every contender checks that it saw all the sockets, so this is about more than the output.
func TestTablesAreMade(t *testing.T) {
	kerneltest.RequireNetNS(t)
	var out, progress bytes.Buffer
	if err := run(t.Context(), []string{"-sockets=600", "-rounds=1", "-only=sockets,host"}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.Bytes())
	}
	for _, want := range []string{
		"\n600 TIME_WAIT sockets, 4 rounds\n", nameFloor, "netlinkdiag Dump", "mdlayher/netlink Execute",
		"vishvananda/netlink SocketDiagTCP", nameTCPOnly, nameEverything,
		"\nA usual host: 100 listeners, 1,000 sockets, 20 rounds\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, out.Bytes())
		}
	}
}

func TestBadCommandLinesAreRefused(t *testing.T) {
	for _, tt := range []struct{ arg, want string }{
		{"-sockets=1000,x", `invalid value "1000,x" for flag -sockets: "x": want numbers of 512 or more`},
		{"-sockets=511", `invalid value "511" for flag -sockets: "511": want numbers of 512 or more`},
		{"-only=sockets,all", `invalid value "sockets,all" for flag -only: no table "all", want some of sockets,ports,host`},
		{"-rounds=0", "-rounds=0: want 1 or more"},
		{"fast", `unexpected argument "fast"`},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			_, err := parse([]string{tt.arg}, io.Discard)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestTablePutsFiguresToTheRight(t *testing.T) {
	tab := table{title: "Title", note: "Note.", head: []string{"", "time"}, rows: [][]string{{"a", "1.00 ms"}, {"bcd", "µs"}}}
	for name, tt := range map[string]struct {
		markdown bool
		want     string
	}{
		"text":     {false, "\nTitle\n\n        time\na    1.00 ms\nbcd       µs\n\nNote.\n"},
		"markdown": {true, "\n### Title\n\n|     |    time |\n| --- | ------: |\n| a   | 1.00 ms |\n| bcd |      µs |\n\nNote.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			printer{w: &out, markdown: tt.markdown}.table(tab)
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestMedianIsOfTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		in   []time.Duration
		want time.Duration
	}{
		{[]time.Duration{7}, 7},
		{[]time.Duration{9, 1, 5}, 5},
		{[]time.Duration{8, 2, 100, 4}, 6},
	} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median of %v is %d, want %d", tt.in, got, tt.want)
		}
	}
}

func TestSampleSumsWhatHasTheLabel(t *testing.T) {
	e := &exporter{url: "http://x/metrics"}
	e.body.WriteString(`# HELP m Some help.
m{port="1",state="time_wait"} 3
m{port="1",state="listen"} 1
m{name="a b",state="time_wait"} 4e+01
m_total 5
n 6
`)
	if got, err := e.sample("m", `state="time_wait"`); got != 43 || err != nil {
		t.Errorf("sum %v, %v, want 43", got, err)
	}
	if got, err := e.sample("n", ""); got != 6 || err != nil {
		t.Errorf("sum %v, %v, want 6", got, err)
	}
	if _, err := e.sample("m", `state="close"`); err == nil || err.Error() != `scrape http://x/metrics: no m with state="close"` {
		t.Errorf("error %v for a sample that is not there", err)
	}
}

func TestEndOfDumpIsFoundAtTheEndOfADatagram(t *testing.T) {
	message := func(typ uint16, seq uint32, payload int, code int32) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+payload)
		binary.NativeEndian.PutUint32(b, uint32(len(b)))
		binary.NativeEndian.PutUint16(b[4:], typ)
		binary.NativeEndian.PutUint32(b[8:], seq)
		binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr:], uint32(code))
		return b
	}
	socket, done := message(unix.SOCK_DIAG_BY_FAMILY, 7, 72, 0), message(unix.NLMSG_DONE, 7, 4, 0)
	for name, tt := range map[string]struct {
		datagram []byte
		want     bool
		err      error
	}{
		"sockets":           {append(socket, socket...), false, nil},
		"sockets, then end": {append(socket, done...), true, nil},
		"end alone":         {done, true, nil},
		"of another dump":   {append(socket, message(unix.NLMSG_DONE, 6, 4, 0)...), false, nil},
		"refusal":           {message(unix.NLMSG_ERROR, 7, 20, -int32(unix.ENOENT)), false, unix.ENOENT},
		"cut short":         {done[:19], false, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := endOfDump(tt.datagram, 7)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%v, %v, want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}
