package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/reexec"
	"sockstate_exporter/internal/linux"
)

// look prints what the process of an ordinary user sees.
func look(dir string) {
	processes, err := New(Config{Processes: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	s := processes.Open()
	fmt.Println("unreadable", s.Unreadable > 0)
	if err := linux.MayEnterNetNS(); !errors.Is(err, linux.ErrNeedsSysAdmin) {
		fmt.Println("may enter:", err)
	}

	named, err := New(Config{Dir: dir, Specs: []Spec{{pattern: "*", glob: true}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	s = named.Open()
	for _, n := range s.Namespaces {
		fmt.Println(n.Name, n.ID.Cookie)
	}
	fmt.Println(s.Err, errors.Is(s.Err, linux.ErrNeedsSysAdmin) && errors.Is(s.Err, os.ErrPermission))
}

func TestWhatMayNotBeEnteredIsLeftOut(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns, own := kerneltest.New(t), kerneltest.New(t)
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // of this test alone
		t.Fatal(err)
	}
	path := pin(t, ns, dir, "blue")
	sleeper(t, ns) // of root

	cmd := own.Command(t, "/proc/self/exe", dir).As(65534, 65534)
	cmd.Env = reexec.RoleEnv("look")
	out, err := cmd.CombinedOutput()
	want := "unreadable true\nnetwork namespace " + path +
		": enter network namespace: needs CAP_SYS_ADMIN: operation not permitted true\n"
	if err != nil || string(out) != want {
		t.Errorf("got error %v and\n%s\nwant\n%s", err, out, want)
	}
}
