package check

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"testing"
	"time"
	"unicode/utf8"

	"sockstate_exporter/internal/bindrule"
	"sockstate_exporter/internal/report"
	"sockstate_exporter/internal/reporttest"
	"sockstate_exporter/internal/sock"
	"sockstate_exporter/netlinkdiag"
)

// socketsOf makes a socket from each six bytes.
func socketsOf(b []byte) []bindrule.Socket {
	var out []bindrule.Socket
	for ; len(b) >= 6 && len(out) < 32; b = b[6:] {
		addr := netip.AddrFrom4([4]byte{127, 0, 0, b[0]})
		switch b[0] % 5 {
		case 0:
			addr = any4
		case 1:
			addr = any6
		case 2:
			addr = netip.AddrFrom16(netip.AddrFrom4([4]byte{127, 0, 0, b[0]}).As16())
		}
		flag := func(n byte) bindrule.Flag {
			return []bindrule.Flag{bindrule.FlagUnknown, bindrule.No, bindrule.Yes}[n%3]
		}
		s := bindrule.Socket{
			Addr: addr, V6Only: flag(b[1]), ReuseAddr: flag(b[1] / 3), ReusePort: flag(b[1] / 9),
			State: sock.State(1 + b[2]%(netlinkdiag.NumStates-1)), Ifindex: uint32(b[3] % 8), Count: uint64(b[3])<<(b[4]%56) + 1,
			Expires: time.Duration(b[4]) * time.Second,
		}
		if b[5]%2 == 0 {
			s.UID = bindrule.UIDOf(uint32(b[5]))
		}
		if s.State == sock.StateTimeWait {
			s.Kind = sock.KindTimeWait
		}
		out = append(out, s)
	}
	return out
}

// FuzzReportJSON: whatever is on a port, the JSON of check is one document that a program
// reads back as what was written, with fields that docs/check.md knows.
func FuzzReportJSON(f *testing.F) {
	f.Add([]byte(nil), "", false)
	f.Add([]byte{0, 1, 9, 0, 0, 2, 3, 5, 5, 7, 60, 1}, "eth0", true)
	f.Add([]byte{1, 2, 9, 7, 0, 1, 2, 9, 9, 3, 255, 3, 4, 13, 7, 0, 9, 0}, "a\n\x00\xff\u2028<b>", false)
	f.Fuzz(func(t *testing.T, b []byte, device string, reuseAddr bool) {
		sockets := socketsOf(b)
		snap := reporttest.SnapshotOf(sockets[:len(sockets)/2], sockets[len(sockets)/2:])
		for i := range snap.Listeners.Data {
			if g := &snap.Listeners.Data[i]; g.Ifindex != 0 {
				g.Interface = device
			}
		}
		r, err := report.New(snap, report.Query{ReuseAddr: reuseAddr})
		if err != nil {
			t.Fatal(err)
		}
		var out, again, text bytes.Buffer
		if err := writeJSON(&out, &judgement{ports: r}); err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(out.Bytes()) {
			t.Errorf("no UTF-8: %q", out.Bytes())
		}
		read := new(document)
		decoder := json.NewDecoder(bytes.NewReader(out.Bytes()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(read); err != nil {
			t.Fatalf("%v in\n%s", err, out.Bytes())
		}
		if decoder.More() {
			t.Errorf("more than one document:\n%s", out.Bytes())
		}
		if err := writeJSON(&again, &judgement{ports: &read.Report, unix: read.Unix}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), out.Bytes()) {
			t.Errorf("written\n%s, read back\n%s", out.Bytes(), again.Bytes())
		}
		if err := writeText(&text, &judgement{ports: r}, []report.Target{{PortRange: sock.PortRange{First: 4840, Last: 4840}}, {PortRange: sock.PortRange{First: 4840, Last: 4841}}}, "", false); err != nil {
			t.Fatal(err)
		}
		if i := bytes.IndexFunc(text.Bytes(), func(r rune) bool { return r < ' ' && r != '\n' }); i >= 0 {
			t.Errorf("a control character at %d of\n%q", i, text.Bytes())
		}
	})
}
