package unixlook

import (
	"errors"
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
		calls := 0
		hangs := func() unixsock.File {
			calls++
			<-release
			return unixsock.File{Kind: unixsock.FileSocket}
		}
		for range 3 {
			if f := p.wait(hangs); f.Kind != unixsock.FileUnknown || !errors.Is(f.Err, errSlow) {
				t.Errorf("it hangs, and the answer is %+v", f)
			}
		}
		if calls != 1 {
			t.Errorf("%d calls hang, want 1", calls)
		}
		close(release)
		time.Sleep(time.Second)
		if f := p.wait(func() unixsock.File { return unixsock.File{Kind: unixsock.FileSocket} }); f.Kind != unixsock.FileSocket {
			t.Errorf("it answers again: %+v", f)
		}
	})
}
