package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"sockstate_exporter/internal/bpf/bindbucket"
	"sockstate_exporter/internal/kerneltest"
	"sockstate_exporter/internal/probe"
	"sockstate_exporter/internal/sock"
)

// alteredBuckets alters what bind buckets show.
type alteredBuckets struct {
	probe.BucketReader
	alter func(*bindbucket.Result) error
}

func (b *alteredBuckets) Read(netns int, ports []uint16) (*bindbucket.Result, error) {
	r, err := b.BucketReader.Read(netns, ports)
	if err == nil {
		err = b.alter(r)
	}
	return r, err
}

// Sockets that are only bound come out of the bind buckets, and out of a dump of their own where these do not
// show them.
func TestKernelSocketsThatAreOnlyBound(t *testing.T) {
	for name, tt := range map[string]struct {
		alter  func(*bindbucket.Result) error
		judged uint64 // how many of them there are for verdicts
	}{
		"buckets": {func(*bindbucket.Result) error { return nil }, 1},
		"the list of a port changes all the time": {func(r *bindbucket.Result) error {
			r.Sockets = slices.DeleteFunc(r.Sockets, func(s bindbucket.Socket) bool { return s.State == sock.StateClose })
			maps.Copy(r.Missed, map[uint16]bool{80: true})
			return nil
		}, 0},
		"buckets cannot be read": {func(*bindbucket.Result) error { return errors.New("broken") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ns := kerneltest.New(t)
			cfg := walkConfig(t, nil, ns)
			cfg.Host.Buckets = &alteredBuckets{cfg.Host.Buckets, tt.alter}
			taker := newTaker(t, cfg, discovering())
			l := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
			l.Peers(t, kerneltest.StateEstablished, 2, localhost4)
			ns.Bind(t, netip.MustParseAddrPort("127.0.0.2:80"), kerneltest.Options{})

			s := takeWithFlags(t, taker)
			want, bound := port(t, &s, 80).IPv4, uint64(0)
			want.States[sock.StateListen], want.States[sock.StateEstablished] = 1, 2
			if cfg.Host.BoundInactive {
				want.States[sock.StateClose] = 1
			}
			if got := port(t, &s, 80).IPv4; got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			for _, socket := range s.Verdicts.Data[0].Port.Sockets {
				if socket.State == sock.StateClose {
					bound += socket.Count
				}
			}
			if bound != tt.judged && cfg.Host.BoundInactive {
				t.Errorf("%d sockets that are only bound are judged, want %d", bound, tt.judged)
			}
		})
	}
}

// noDumps is a BucketReader that counts the questions in place of dumps.
type noDumps struct {
	probe.BucketReader
	asked int
}

func (b *noDumps) ReadConnections(netns int, of sock.PortRange, except []uint16) ([]bindbucket.Connection, error) {
	b.asked++
	return b.BucketReader.ReadConnections(netns, of, except)
}

// What bind buckets and a smaller dump show together is what a whole dump shows: all but connections in SYN_RECV is
// in bind buckets, and a port that has these is dumped.
func TestKernelBucketsShowWhatADumpShows(t *testing.T) {
	var inBuckets []kerneltest.State
	for _, state := range connected() {
		if state != kerneltest.StateSynRecv {
			inBuckets = append(inBuckets, state)
		}
	}
	for _, tt := range []struct {
		name   string
		states []kerneltest.State
		remote bool // counts sockets to a remote port, whatever their own
		asked  int
	}{
		{"only listeners", nil, false, 1},
		{"all in buckets", inBuckets, false, 1},
		{"remote ports", inBuckets, true, 0},
		{"SYN_RECV", connected(), false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := kerneltest.New(t)
			l := ns.Listen(t, netip.MustParseAddrPort("[::]:80"), kerneltest.Options{ReuseAddr: true})
			for _, state := range tt.states {
				l.Peers(t, state, 1, localhost6)
				l.Peers(t, state, 2, localhost4)
			}
			cfg := walkConfig(t, nil, ns)
			if !tt.remote {
				cfg.Parts.Remote = nil
			}
			buckets := &noDumps{BucketReader: cfg.Host.Buckets}
			cfg.Host.Buckets = buckets
			got := takeWithFlags(t, newTaker(t, cfg, discovering()))
			if buckets.asked != tt.asked {
				t.Errorf("%d dumps were replaced, want %d", buckets.asked, tt.asked)
			}
			cfg.Host.Buckets = nil
			want := takeWithFlags(t, newTaker(t, cfg, discovering()))

			for _, part := range []struct{ got, want any }{
				{got.TCP.Data, want.TCP.Data}, {got.Remote.Data, want.Remote.Data}, {got.Ephemeral.Data, want.Ephemeral.Data},
			} {
				got, want := changing.ReplaceAllString(fmt.Sprintf("%+v", part.got), "?"), changing.ReplaceAllString(fmt.Sprintf("%+v", part.want), "?")
				if got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
			if n := len(got.Ephemeral.Data.IPv4); (n > 0) != (tt.states != nil) {
				t.Errorf("%d destinations", n)
			}
		})
	}
}

// Connections in SYN_RECV outlive their listener for a while. No listener counts them then.
func TestKernelRequestsOfAListenerThatHasGone(t *testing.T) {
	inSynRecv := func(s *Snapshot) uint64 { return port(t, s, 80).IPv4.States[sock.StateSynRecv] }
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("another listens: %t", again), func(t *testing.T) {
			ns := kerneltest.New(t)
			cfg := walkConfig(t, nil, ns)
			cfg.Parts.Remote = nil
			buckets := &noDumps{BucketReader: cfg.Host.Buckets}
			cfg.Host.Buckets = buckets
			taker := newTaker(t, cfg, discovering())
			old := ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{ReusePort: true})
			takeWithFlags(t, taker)
			old.Peers(t, kerneltest.StateSynRecv, 3, localhost4)
			if again {
				ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{ReusePort: true})
			}
			// Until the kernel repeats its answer, and finds that the listener has gone.
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			s := takeWithFlags(t, taker)
			for range 2 { // the second time it is known that there were some
				if got, want := inSynRecv(&s), uint64(3); got != want {
					t.Errorf("%d in SYN_RECV, want %d", got, want)
				}
				s = takeWithFlags(t, taker)
			}
			if again {
				return // the other listener gets them when the kernel repeats its answer
			}
			for deadline := time.Now().Add(time.Minute); inSynRecv(&s) > 0; s = takeWithFlags(t, taker) {
				if time.Now().After(deadline) {
					t.Fatal("the kernel keeps them")
				}
				time.Sleep(50 * time.Millisecond)
			}
			ns.Listen(t, netip.MustParseAddrPort("127.0.0.1:80"), kerneltest.Options{})
			asked := buckets.asked
			if takeWithFlags(t, taker); buckets.asked == asked {
				t.Error("no dump is replaced after that")
			}
		})
	}
}

// connected are the states of connections.
func connected() []kerneltest.State {
	return slices.DeleteFunc(kerneltest.States(), func(s kerneltest.State) bool {
		return s == kerneltest.StateListen || s == kerneltest.StateClose
	})
}
