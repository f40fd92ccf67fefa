package sockflags

import (
	"testing"
	"time"
)

func TestPidfdForgetsListenersNobodyAsksAbout(t *testing.T) {
	r, err := New(Options{Mode: ModePidfd, PidfdInterval: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for cookie := range uint64(10) {
		if _, err := r.Read(t.Context(), Request{Listeners: []ListenerID{{Cookie: cookie, Inode: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	p, ok := r.source.(*pidfds)
	if !ok {
		t.Fatalf("reads by %T", r.source)
	}
	if known := len(p.known); known != 1 {
		t.Errorf("%d listeners are remembered, want the last one", known)
	}
}

func TestSocketInode(t *testing.T) {
	for _, test := range []struct {
		link string
		want uint32
		ok   bool
	}{
		{"socket:[1]", 1, true},
		{"socket:[4294967295]", 4294967295, true},
		{"socket:[4294967296]", 0, false},
		{"socket:[12345", 0, false},
		{"socket:[]", 0, false},
		{"socket:[-1]", 0, false},
		{"socket:[1] (deleted)", 0, false},
		{"pipe:[1]", 0, false},
		{"/tmp/socket:[1]", 0, false},
		{"", 0, false},
	} {
		if got, ok := socketInode([]byte(test.link)); ok != test.ok || ok && got != test.want {
			t.Errorf("socketInode(%q) = %d, %v; want %d, %v", test.link, got, ok, test.want, test.ok)
		}
	}
}
