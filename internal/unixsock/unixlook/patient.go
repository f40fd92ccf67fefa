package unixlook

import (
	"errors"
	"time"

	"sockstate_exporter/internal/unixsock"
)

// statWait is how long a file system may take. One over a network, or FUSE, may never answer.
const statWait = 2 * time.Second

var errSlow = errors.New("the file system does not answer")

// A patient waits for one file system at a time, and gives up. A call that never returns keeps one
// goroutine, and those after it get errSlow.
type patient chan struct{}

func newPatient() patient { return make(patient, 1) }

func (p patient) wait(stat func() unixsock.File) unixsock.File {
	over := time.NewTimer(statWait)
	defer over.Stop()
	select {
	case p <- struct{}{}:
	case <-over.C:
		return unknown(errSlow)
	}
	done := make(chan unixsock.File, 1)
	go func() {
		defer func() { <-p }()
		done <- stat()
	}()
	select {
	case file := <-done:
		return file
	case <-over.C:
		return unknown(errSlow)
	}
}
