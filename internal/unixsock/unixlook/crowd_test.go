package unixlook

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/kerneltest/unixsocket"
	"sockstate_exporter/internal/unixsock"
)

const (
	crowdOfOne  = 10_000 // sockets of one process: the descriptors of a process are limited
	crowdOfBase = 300    // of all, those with the last part of the path
	crowdBound  = 2000   // and those with a name
)

// Any user can have as many sockets as descriptors, with names that look like the path.
func TestCrowdOfSocketsDoesNotHideAServer(t *testing.T) {
	const processes = 10
	ns, dir := kerneltest.New(t), t.TempDir()
	path := filepath.Join(dir, "app.sock")
	server := unixsocket.Listen(t, ns, path)
	for i := range processes {
		cmd := ns.Command(t, "/proc/self/exe", path, strconv.Itoa(i*crowdOfOne))
		cmd.Env, cmd.Stderr = reexec.RoleEnv("crowd"), os.Stderr
		_, out := reexec.StartPiped(t, cmd)
		awaitReady(t, out)
	}
	began := time.Now()
	v := look(t, ns, path)
	t.Logf("a look beside %d sockets took %v", processes*crowdOfOne, time.Since(began))
	want(t, &v, unixsock.InUse, []uint32{inode(t, server)}, nil)
	if v.Holders[0].Owner.PID != os.Getpid() {
		t.Errorf("the holder is %+v, want this process", v.Holders[0].Owner)
	}
	if n := len(v.CutOff) + len(v.Unclear); n > maxNamed {
		t.Errorf("%d sockets are kept", n)
	}
}
