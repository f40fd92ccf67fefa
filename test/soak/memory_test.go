package soak

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/test/launch"
)

// manifest is where the exporter's memory limit is.
const manifest = "../../deploy/kubernetes/sockstate_exporter.yaml"

// memoryLimit is the limit of the manifest, in bytes.
func memoryLimit(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	limits := regexp.MustCompile(`(?s)limits:\n\s+memory: (\d+)Mi`).FindSubmatch(text)
	if limits == nil {
		t.Fatalf("%s has no limit of memory", manifest)
	}
	n, err := strconv.Atoi(string(limits[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n * mib
}

// goMemoryLimit is the GOMEMLIMIT of the manifest.
func goMemoryLimit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	limit := regexp.MustCompile(`name: GOMEMLIMIT\n\s+value: (\S+)\n`).FindSubmatch(text)
	if limit == nil {
		t.Fatalf("%s has no GOMEMLIMIT", manifest)
	}
	return string(limit[1])
}

// manyListeners is how many listeners one user makes.
func manyListeners() int {
	if soaking() {
		return 200_000
	}
	return 50_000
}

// An ordinary user with as many listeners as descriptors allow, on 300 ports. Everything is on.
func TestListenersOfOneUserFitIntoTheMemoryOfTheManifests(t *testing.T) {
	kerneltest.RequireRoot(t)
	limit := memoryLimit(t)
	ns := kerneltest.New(t)
	ns.Listen(t, loopback(5432), kerneltest.Options{})
	e := prepare(t, ns, 10048)
	e.Cmd.Env = append(e.Cmd.Environ(), "GOMEMLIMIT="+goMemoryLimit(t))
	e.Run(t)
	e.scrape(t)
	for first := 0; first < manyListeners(); first += manyShare {
		defer begin(t, launch.InRole(t, ns, "listen", "many", strconv.Itoa(first)))()
	}
	began := time.Now()
	for n := 0; n < 6 || time.Since(began) < loadTime(t); n++ {
		next := time.Now().Add(scrapeEvery())
		s := e.scrape(t)
		if sum := s.sum(t, "sockstate_tcp_sockets", `state="listen"`); int(sum) < manyListeners() {
			t.Errorf("%v listeners are counted, want %d and more", sum, manyListeners())
		}
		s.sum(t, "sockstate_tcp_listener_info", `port="5432"`) // is there
		if status, _, err := e.TryGet("/ports"); err != nil || status != 200 {
			t.Errorf("/ports: status %d, %v", status, err)
		}
		time.Sleep(time.Until(next))
	}
	peak := e.ProcStatus(t, "VmHWM") << 10
	t.Logf("%d listeners: peak RSS %.1f MiB, limit %d MiB", manyListeners(), float64(peak)/mib, limit/mib)
	if peak >= limit {
		t.Errorf("peak RSS is %.1f MiB with %d listeners, and %s has a limit of %d MiB", float64(peak)/mib, manyListeners(), manifest, limit/mib)
	}
}
