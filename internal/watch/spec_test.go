package watch

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"sockstate_exporter/internal/sock"
)

func TestParseSpec(t *testing.T) {
	tests := []struct {
		in   string
		want Spec
		str  string
	}{
		{"4840", Spec{PortRange: sock.PortRange{First: 4840, Last: 4840}}, "4840"},
		{"1", Spec{PortRange: sock.PortRange{First: 1, Last: 1}}, "1"},
		{"65535", Spec{PortRange: sock.PortRange{First: 65535, Last: 65535}}, "65535"},
		{"8000-8010", Spec{PortRange: sock.PortRange{First: 8000, Last: 8010}}, "8000-8010"},
		{"1-65535", Spec{PortRange: sock.PortRange{First: 1, Last: 65535}}, "1-65535"},
		{"80-80", Spec{PortRange: sock.PortRange{First: 80, Last: 80}}, "80"},
		{"4840/tcp", Spec{PortRange: sock.PortRange{First: 4840, Last: 4840}}, "4840"},
		{"53/udp", Spec{PortRange: sock.PortRange{First: 53, Last: 53}, Protocol: sock.UDP}, "53/udp"},
		{"5000-5010/udp:voice", Spec{PortRange: sock.PortRange{First: 5000, Last: 5010}, Protocol: sock.UDP, Name: "voice"}, "5000-5010/udp:voice"},
		{"80:a/udp", Spec{PortRange: sock.PortRange{First: 80, Last: 80}, Name: "a/udp"}, "80:a/udp"},
		{"0080", Spec{PortRange: sock.PortRange{First: 80, Last: 80}}, "80"},
		{"4840:opcua", Spec{PortRange: sock.PortRange{First: 4840, Last: 4840}, Name: "opcua"}, "4840:opcua"},
		{"8000-8010:web", Spec{PortRange: sock.PortRange{First: 8000, Last: 8010}, Name: "web"}, "8000-8010:web"},
		{"80:a b", Spec{PortRange: sock.PortRange{First: 80, Last: 80}, Name: "a b"}, "80:a b"},
		{"80:a:b-c", Spec{PortRange: sock.PortRange{First: 80, Last: 80}, Name: "a:b-c"}, "80:a:b-c"},
		{"80:größe ☃", Spec{PortRange: sock.PortRange{First: 80, Last: 80}, Name: "größe ☃"}, "80:größe ☃"},
		{"80:" + strings.Repeat("n", 64), Spec{PortRange: sock.PortRange{First: 80, Last: 80}, Name: strings.Repeat("n", 64)}, "80:" + strings.Repeat("n", 64)},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseSpec(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if got.String() != tt.str {
				t.Errorf("String is %q, want %q", got, tt.str)
			}
		})
	}
}

func TestParseSpecErrors(t *testing.T) {
	tests := []struct {
		in, want string
	}{
		{"", `port "" is not a number, want 1 to 65535`},
		{"http", `port "http" is not a number, want 1 to 65535`},
		{" 80", `port " 80" is not a number, want 1 to 65535`},
		{"+80", `port "+80" is not a number, want 1 to 65535`},
		{"8_0", `port "8_0" is not a number, want 1 to 65535`},
		{"0x50", `port "0x50" is not a number, want 1 to 65535`},
		{"80,81", `port "80,81" is not a number, want 1 to 65535`},
		{"0", `port "0" is out of range, want 1 to 65535`},
		{"65536", `port "65536" is out of range, want 1 to 65535`},
		{"99999999999999999999", `port "99999999999999999999" is out of range, want 1 to 65535`},
		{"-", `range "-": port "" is not a number, want 1 to 65535`},
		{"-80", `range "-80": port "" is not a number, want 1 to 65535`},
		{"80-", `range "80-": port "" is not a number, want 1 to 65535`},
		{"80-web", `range "80-web": port "web" is not a number, want 1 to 65535`},
		{"1-2-3", `range "1-2-3": port "2-3" is not a number, want 1 to 65535`},
		{"0-80", `range "0-80": port "0" is out of range, want 1 to 65535`},
		{"80-65536", `range "80-65536": port "65536" is out of range, want 1 to 65535`},
		{"8010-8000", `range "8010-8000" is reversed, want "8000-8010"`},
		{"8010-8000:web", `range "8010-8000" is reversed, want "8000-8010"`},
		{"53/sctp", `protocol "sctp" is not known, want tcp or udp`},
		{"53/", `protocol "" is not known, want tcp or udp`},
		{"/udp", `port "" is not a number, want 1 to 65535`},
		{":web", `port "" is not a number, want 1 to 65535`},
		{"80:", `"80:" has an empty name, want 1 to 64 bytes after the colon, or no colon`},
		{"80: ", `name " " begins or ends with a space, want ""`},
		{"80: web", `name " web" begins or ends with a space, want "web"`},
		{"80:web\u00a0", `name "web\u00a0" begins or ends with a space, want "web"`},
		{"80:a\x01b", `name "a\x01b" holds '\x01', want printable UTF-8`},
		{"80:a\u00a0b", `name "a\u00a0b" holds '\u00a0', want printable UTF-8`},
		{"80:a\u202eb", `name "a\u202eb" holds '\u202e', want printable UTF-8`},
		{"80:a\xffb", `name "a\xffb" is not valid UTF-8, want printable UTF-8`},
		{"80:" + strings.Repeat("n", 65), `name "nnnnnnnnnnnnnnnn"... has 65 bytes, want 1 to 64`},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseSpec(tt.in)
			if err == nil {
				t.Fatalf("got %+v, want error %q", got, tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got error\n%s\nwant\n%s", err, tt.want)
			}
			if got != (Spec{}) {
				t.Errorf("got %+v beside the error, want nothing", got)
			}
		})
	}
}

func TestParseRangeTakesNoName(t *testing.T) {
	if got, err := ParseRange("30000-32767"); err != nil || got != (sock.PortRange{First: 30000, Last: 32767}) {
		t.Errorf("got %v, %v, want 30000-32767", got, err)
	}
	_, err := ParseRange("22:ssh")
	if want := `port "22:ssh" is not a number, want 1 to 65535`; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestParseExclusion(t *testing.T) {
	if got, err := ParseExclusion("30000-32767/udp"); err != nil || got != (Exclusion{sock.PortRange{First: 30000, Last: 32767}, sock.UDP}) || got.String() != "30000-32767/udp" {
		t.Errorf("got %v, %v, want 30000-32767/udp", got, err)
	}
	_, err := ParseExclusion("22:ssh")
	if want := `port "22:ssh" is not a number, want 1 to 65535`; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"4840", "8000-8010", "4840:opcua", "8000-8010:web", "80:a:b-c", "0", "9-1", "80:", "65535-65536", "80:\xff", "80:\u202e", "53/udp:dns", "53/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := ParseSpec(in)
		if err != nil {
			if spec != (Spec{}) {
				t.Errorf("%q: got %+v beside error %v", in, spec, err)
			}
			return
		}
		if spec.First < 1 || spec.First > spec.Last {
			t.Errorf("%q: got ports %v", in, spec.PortRange)
		}
		if !utf8.ValidString(spec.Name) || len(spec.Name) > 64 || strings.TrimSpace(spec.Name) != spec.Name {
			t.Errorf("%q: got name %q", in, spec.Name)
		}
		if i := strings.IndexFunc(spec.Name, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: got name %q, not printable at %d", in, spec.Name, i)
		}
		again, err := ParseSpec(spec.String())
		if err != nil || again != spec {
			t.Errorf("%q: String gives %q, which reads as %+v, %v", in, spec, again, err)
		}
		if _, err := New(Config{Ports: []Spec{spec}, MaxPorts: 1}); err != nil {
			t.Errorf("%q: New refuses what ParseSpec took: %v", in, err)
		}
	})
}
