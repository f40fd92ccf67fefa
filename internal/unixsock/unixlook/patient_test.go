package unixlook

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/unixsock"
)

// A file system that does not answer costs one goroutine, whoever asks.
func TestFileSystemThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatient()
		release := make(chan struct{})
		var calls atomic.Int32
		hangs := func() unixsock.File {
			calls.Add(1)
			<-release
			return unixsock.File{Kind: unixsock.FileSocket}
		}
		for range 3 {
			if f := p.wait(hangs); f.Kind != unixsock.FileUnknown || !errors.Is(f.Err, errSlow) {
				t.Errorf("it hangs, and the answer is %+v", f)
			}
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls hang, want 1", n)
		}
		close(release)
		time.Sleep(time.Second)
		if f := p.wait(func() unixsock.File { return unixsock.File{Kind: unixsock.FileSocket} }); f.Kind != unixsock.FileSocket {
			t.Errorf("it answers again: %+v", f)
		}
	})
}
