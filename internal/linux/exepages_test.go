package linux

import (
	"bytes"
	"os"
	"strconv"
	"testing"
)

func TestUnmapExecutable(t *testing.T) {
	before := mappedOfExecutable(t)
	if err := unmapExecutable(); err != nil {
		t.Fatal(err)
	}
	if after := mappedOfExecutable(t); after >= before {
		t.Errorf("%d kB of the executable are mapped, of %d before", after, before)
	}
}

// mappedOfExecutable returns how many kB of what cannot be written are mapped.
func mappedOfExecutable(t *testing.T) (kB int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mapping.FindAllSubmatch(smaps, -1) {
		_, rss, found := bytes.Cut(m[0], []byte("\nRss: "))
		if string(m[3]) != exe || !found {
			continue
		}
		n, err := strconv.Atoi(string(bytes.Fields(rss)[0]))
		if err != nil {
			t.Fatal(err)
		}
		kB += n
	}
	if kB == 0 {
		t.Fatal("no mapping of the executable was found")
	}
	return kB
}
