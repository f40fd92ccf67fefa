package unixlook

import (
	"errors"
	"sync/atomic"
	"time"

	"sockstate_exporter/internal/unixsock"
)

// statWait is how long a file system may take. One over a network, or FUSE, may never answer.
const statWait = 2 * time.Second

var errSlow = errors.New("the file system does not answer")

// A patient waits for one file system at a time, and gives up. A call that does not return keeps one
// goroutine, and until it does, all others get errSlow at once.
type patient struct {
	turn  chan struct{}
	stuck atomic.Bool
}

func newPatient() *patient { return &patient{turn: make(chan struct{}, 1)} }

func (p *patient) wait(stat func() unixsock.File) unixsock.File {
	if p.stuck.Load() {
		return unknown(errSlow)
	}
	over := time.NewTimer(statWait)
	defer over.Stop()
	select {
	case p.turn <- struct{}{}:
	case <-over.C:
		return unknown(errSlow)
	}
	done := make(chan unixsock.File, 1)
	go func() {
		file := stat()
		p.stuck.Store(false)
		<-p.turn
		done <- file
	}()
	select {
	case file := <-done:
		return file
	case <-over.C:
		p.stuck.Store(true)
		select {
		case file := <-done: // it has answered meanwhile
			p.stuck.Store(false)
			return file
		default:
			return unknown(errSlow)
		}
	}
}
