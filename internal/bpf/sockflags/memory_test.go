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
