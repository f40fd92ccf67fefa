package guest

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func collect(t *testing.T, r io.Reader) []Event {
	t.Helper()
	var events []Event
	if err := Read(r, func(e Event) error {
		events = append(events, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return events
}

func TestReadReturnsWhatWasReported(t *testing.T) {
	want := []Event{
		{Up: &Up{Release: "6.1.0-56-cloud-amd64"}},
		{Start: "a/b"},
		{Output: []byte("plain")},
		{Output: []byte{}},
		{Output: []byte("\x16--- PASS: \xff\r")},
		{Output: []byte(`{"Done":true}`)},
		{Output: []byte("|")},
		{Exit: &Exit{Package: "a/b", Code: 2, Error: "killed", Left: []string{"process 7: x"}}},
		{Fatal: "no\nmodule"},
		{Done: true},
	}
	var b bytes.Buffer
	r := NewReporter(&b)
	for _, e := range want {
		if err := r.Report(e); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, &b); !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%v, want\n%v", got, want)
	}
}

func TestReadIgnoresTheLineInWhichTheGuestDied(t *testing.T) {
	got := collect(t, strings.NewReader("{\"Start\":\"a\"}\n|whole\n{\"Done\":tr"))
	want := []Event{{Start: "a"}, {Output: []byte("whole")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
}

func TestReadRefusesWhatNoReporterWrites(t *testing.T) {
	for _, line := range []string{"", "hello", `{"Exit":1}`} {
		err := Read(strings.NewReader(line+"\n"), func(Event) error { return nil })
		if err == nil || !strings.HasPrefix(err.Error(), "guest reported \""+strings.ReplaceAll(line, `"`, `\"`)+"\": ") {
			t.Errorf("line %q: error %v", line, err)
		}
	}
}

func TestReadStopsAtTheErrorOfItsCaller(t *testing.T) {
	stop := errors.New("stop")
	calls := 0
	err := Read(strings.NewReader("|a\n|b\n"), func(Event) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("error %v after %d calls, want %v after 1", err, calls, stop)
	}
}
