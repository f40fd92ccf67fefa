package reexec

import (
	"bufio"
	"io"
	"testing"
)

// StartPiped starts an exec.Cmd or a kerneltest.Cmd with pipes to its standard input and from its standard output. The
// input is closed when the test ends, if not before.
func StartPiped(t testing.TB, cmd interface {
	StdinPipe() (io.WriteCloser, error)
	StdoutPipe() (io.ReadCloser, error)
	Start() error
}) (in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return in, bufio.NewReader(pipe)
}
