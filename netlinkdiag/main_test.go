package netlinkdiag_test

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/netlinkdiag"
)

// helperEnv says what the test binary does instead of the tests when it runs as a helper
// process. Descriptor 3 is a network namespace.
const helperEnv = "NETLINKDIAG_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperEnv) {
	case "":
		kerneltest.Main(m)
	case "dial":
		_, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: 3})
		fmt.Printf("permission %v: %v\n", errors.Is(err, os.ErrPermission), err)
	case "dump without standard input":
		_ = unix.Close(0)
		c, err := netlinkdiag.Dial(&netlinkdiag.Config{NetNS: 3})
		if err != nil {
			fmt.Println(err)
			return
		}
		for s, err := range c.Dump(noContext, netlinkdiag.Request{}) {
			fmt.Println(s.State, s.Local, err)
		}
	}
}

// collect returns the sockets since the last ErrRestarted, and the error that ended the dump.
func collect(dump iter.Seq2[netlinkdiag.Socket, error]) ([]netlinkdiag.Socket, error) {
	var sockets []netlinkdiag.Socket
	var last error
	for s, err := range dump {
		switch {
		case errors.Is(err, netlinkdiag.ErrRestarted):
			sockets = nil
		case err != nil:
			last = err
		default:
			sockets = append(sockets, s)
		}
	}
	return sockets, last
}
