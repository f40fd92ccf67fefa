package soak

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/kerneltest/timewait"
	"sockstate_exporter/test/launch"
)

// A raw client is a connection that does what it likes.
func (e *exporter) raw(t *testing.T, say string) net.Conn {
	t.Helper()
	conn, err := e.ns.DialContext(t.Context(), "tcp", e.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, say); err != nil {
		t.Fatal(err)
	}
	return conn
}

const (
	getMetrics  = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
	getPorts    = "GET /ports HTTP/1.1\r\nHost: x\r\n\r\n"
	getFailures = "GET /failures HTTP/1.1\r\nHost: x\r\n\r\n"
)

func TestFiftyScrapersAreServedOrRefused(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	timewait.MustMake(t, ns, timewait.Options{Count: 5000, Ports: []uint16{4840}})
	e := start(t, ns, 10048, "--web.max-requests=20")
	e.Client.Transport = &http.Transport{DialContext: ns.DialContext, MaxIdleConnsPerHost: 50}

	var served, refused atomic.Int64
	var wrong atomic.Value
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var scrapers sync.WaitGroup
	for range 50 {
		scrapers.Go(func() {
			for ctx.Err() == nil {
				status, body, err := launch.Get(ctx, e.Client, "http://"+e.Address+"/metrics")
				switch {
				case ctx.Err() != nil:
				case err == nil && status == http.StatusOK && strings.Contains(body, "\nsockstate_watched_ports "):
					served.Add(1)
				case err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "--web.max-requests"):
					refused.Add(1)
				default:
					wrong.Store(fmt.Sprintf("status %d, %v: %.200s", status, err, body))
					return
				}
			}
		})
	}
	var usages []usage
	began := time.Now()
	for time.Since(began) < loadTime(t) || served.Load() < 100 || len(usages) < 9 {
		if what := wrong.Load(); what != nil {
			t.Fatal(what)
		}
		if time.Since(began) > patience+loadTime(t) {
			t.Fatalf("%d scrapes were served, %d refused", served.Load(), refused.Load())
		}
		// Not by a scrape: that may be refused.
		usages = append(usages, e.usage(t, "go_goroutines 0\nprocess_cpu_seconds_total 0\n"))
		time.Sleep(scrapeEvery())
	}
	took := time.Since(began)
	cancel()
	scrapers.Wait()
	t.Logf("%.0f scrapes a second were served, %.0f refused", float64(served.Load())/took.Seconds(), float64(refused.Load())/took.Seconds())
	checkFlat(t, usages)
	// Scrapes that were given up may still be served, and take their places.
	eventually(t, "a scrape is served", func() string {
		if status, body, err := e.TryGet("/metrics"); err != nil || status != http.StatusOK {
			return fmt.Sprintf("status %d, %v: %.200s", status, err, body)
		}
		return ""
	})
	e.scrape(t)
}

// watchMany makes an answer that fits no socket buffer.
const watchMany = "--watch.port=10001-10500"

func TestClientsThatDoNotReadHoldTheirShareOnly(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 65536")
	e := start(t, ns, 10048, watchMany, "--web.max-requests=30")
	before := e.usage(t, e.scrape(t))
	slow := make([]net.Conn, 29)
	for i := range slow {
		slow[i] = e.raw(t, getMetrics)
	}
	for range 10 { // one place is left
		e.scrape(t)
	}
	during := e.usage(t, e.scrape(t))
	t.Logf("without them %v; beside %d that do not read %v", before, len(slow), during)
	if during.rss > before.rss+192*mib {
		t.Errorf("takes %v, %v before", during, before)
	}

	// More of them than there are places, and all from the address of the scraper.
	for range 60 {
		slow = append(slow, e.raw(t, getMetrics))
	}
	eventually(t, "a scrape is served beside them", func() string {
		status, body, err := e.TryGet("/metrics")
		if err != nil || status != http.StatusOK {
			return fmt.Sprintf("status %d, %v: %.200s", status, err, body)
		}
		return ""
	})
	if status, _, err := e.TryGet("/-/healthy"); status != http.StatusOK {
		t.Errorf("/-/healthy beside them: status %d, %v", status, err)
	}
	if during = e.usage(t, e.scrape(t)); during.rss > before.rss+192*mib {
		t.Errorf("takes %v, %v before", during, before)
	}
	for _, conn := range slow {
		conn.Close()
	}
	eventually(t, "their places are free", func() string {
		status, _, err := e.TryGet("/metrics")
		if err != nil || status != http.StatusOK {
			return fmt.Sprintf("status %d, %v", status, err)
		}
		return ""
	})
}

// A client that does not read is given up after a while, also if nobody needs its place.
func TestClientThatNeverReadsIsGivenUp(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 65536")
	e := start(t, ns, 10048, watchMany)
	before := e.usage(t, e.scrape(t)).descriptors
	for _, ask := range []string{getMetrics, getPorts} {
		for range 3 {
			e.raw(t, ask)
		}
	}
	eventually(t, "they are connected", func() string {
		if now := e.usage(t, e.scrape(t)); now.descriptors < before+6 {
			return fmt.Sprintf("%v, before them %d descriptors", now, before)
		}
		return ""
	})
	eventually(t, "they are given up", func() string {
		if now := e.usage(t, e.scrape(t)); now.descriptors > before {
			return fmt.Sprintf("%v, before them %d descriptors", now, before)
		}
		return ""
	})
}

func TestClientsThatDoNotReadPagesKeepNoScrapeOut(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	ns.Sysctl(t, "net.ipv4.tcp_wmem", "4096 16384 65536")
	e := start(t, ns, 10048, watchMany, "--web.max-requests=1")
	for _, page := range []string{getPorts, getFailures} {
		for range 40 {
			e.raw(t, page)
		}
	}
	for range 10 {
		e.scrape(t)
	}
}

func TestIdleConnectionsKeepNoScrapeOut(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := start(t, ns, 10048)
	// Each scrape comes on a connection of its own, the newest of 1,500.
	e.Client.Transport = &http.Transport{DialContext: ns.DialContext, DisableKeepAlives: true}
	for range 1500 {
		e.raw(t, "")
	}
	for range 10 {
		e.scrape(t)
	}
}

func TestHalfOpenClientsAreBoundedAndLetGo(t *testing.T) {
	kerneltest.RequireRoot(t)
	ns := kerneltest.New(t)
	e := start(t, ns, 10048)
	before := e.usage(t, e.scrape(t))
	// More than there may be connections; the scraper has one that it keeps.
	const clients = 1500
	conns := make([]net.Conn, clients)
	for i := range conns {
		conn, err := e.ns.DialContext(t.Context(), "tcp", e.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns[i] = conn
		// One that was refused may have been reset by now.
		_, _ = io.WriteString(conn, "GET /metrics HTT")
	}
	during := e.usage(t, e.scrape(t))
	t.Logf("without them %v; beside %d that never finish their request %v", before, clients, during)
	if limit := before.descriptors + 1000; during.descriptors > limit || during.rss > before.rss+96*mib {
		t.Errorf("takes %v, want %d descriptors at most", during, limit)
	}
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatalf("a half-open connection is still there: %v", err)
		}
	}
	eventually(t, "their descriptors are closed", func() string {
		if now := e.usage(t, e.scrape(t)); now.descriptors > before.descriptors+4 {
			return fmt.Sprintf("%v, before them %v", now, before)
		}
		return ""
	})
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	kerneltest.RequireRoot(t)
	e := start(t, kerneltest.New(t), 10048)
	before := e.usage(t, e.scrape(t))
	for _, tt := range []struct{ name, request string }{
		{"one long header", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"},
		{"many headers", "GET /metrics HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1<<17) + "\r\n"},
		{"long path", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := e.ns.DialContext(t.Context(), "tcp", e.Address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, tt.request) }() // it may be cut off
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("status %d, want 431", resp.StatusCode)
			}
		})
	}
	if after := e.usage(t, e.scrape(t)); after.rss > before.rss+32*mib {
		t.Errorf("takes %v, %v before", after, before)
	}
}
