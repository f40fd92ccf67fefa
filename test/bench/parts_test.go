package bench

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSampleSumsWhatHasTheLabel(t *testing.T) {
	e := &scraped{}
	e.body = `# HELP m Some help.
m{port="1",state="time_wait"} 3
m{port="1",state="listen"} 1
m{name="a b",state="time_wait"} 4e+01
m_total 5
n 6
`
	if got, err := e.sum(samples{"m", `state="time_wait"`}); got != 43 || err != nil {
		t.Errorf("sum %v, %v, want 43", got, err)
	}
	if got, err := e.sum(samples{"n", ""}); got != 6 || err != nil {
		t.Errorf("sum %v, %v, want 6", got, err)
	}
	if _, err := e.sum(samples{"m", `state="close"`}); err == nil || err.Error() != `no m with state="close"` {
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
