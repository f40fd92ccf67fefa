package exporter

import (
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// What of the executable only starting needed is not in memory when the exporter waits for its first scrape: without
// that it would be three times as much.
func TestMemoryThatOnlyStartingNeededIsGivenUp(t *testing.T) {
	e := launch.New(t, kerneltest.New(t))
	e.RunUntil(t, "/-/ready")
	file, err := e.Binary.Stat()
	if err != nil {
		t.Fatal(err)
	}
	want := int(file.Size()>>10) * 6 / 10
	rss := e.ProcStatus(t, "RssFile")
	for deadline := time.Now().Add(launch.Patience); rss > want; rss = e.ProcStatus(t, "RssFile") {
		if time.Now().After(deadline) {
			t.Fatalf("%d KiB of files are in memory, want %d at most", rss, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d KiB of files are in memory", rss)
}
