package owner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"sockstate_exporter/internal/linux"
)

// A failing Searcher fails, and counts how often it was asked.
type failing int

func (f *failing) Search(context.Context, func(uint32) bool) ([]linux.SocketHolder, error) {
	*f++
	return nil, errors.New("failed")
}

func TestProcfsIsScannedForTenMinutesWhereASearcherFails(t *testing.T) {
	proc := newFakeProc(t, nginx())
	synctest.Test(t, func(t *testing.T) {
		var searcher failing
		f := newFinder(t, Options{Proc: proc.path, Searcher: &searcher})
		for i, want := range []failing{1, 1, 2} {
			if i == 2 {
				time.Sleep(searchAgain)
			}
			found, err := f.scan(t.Context(), search{inode: identity{}})
			if err != nil || len(found.holders) != 1 || searcher != want {
				t.Errorf("got %v, %v after %d searches, want one socket after %d", found.holders, err, searcher, want)
			}
		}
	})
}

// A process that ended after the search does not own the sockets of a later one with its pid.
func TestSearcherWhoseProcessHasEnded(t *testing.T) {
	proc := newFakeProc(t, nginx())
	f := newFinder(t, Options{Proc: proc.path})
	held := []linux.SocketHolder{{PID: 100, Start: 4999, FDs: []linux.SocketFD{{FD: 0, Inode: inode}}}}
	if found := f.scanHolders(held, search{inode: identity{}}); len(found.holders) != 0 || found.refused != 0 {
		t.Errorf("got %+v, want no owner", found)
	}
}
