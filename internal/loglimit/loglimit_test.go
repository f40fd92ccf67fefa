package loglimit

import (
	"bytes"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const pause = time.Minute

func TestLinesOfAKindAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(3, pause)
		passed := 0
		for range 1000 {
			if _, ok := l.Allow("flood"); ok {
				passed++
			}
		}
		if passed != 3 {
			t.Errorf("%d lines at once, want 3", passed)
		}
		if _, ok := l.Allow("other"); !ok {
			t.Error("a line of another kind is left out")
		}
		time.Sleep(pause)
		if leftOut, ok := l.Allow("flood"); !ok || leftOut != 997 {
			t.Errorf("after the pause: %v, with %d left out; want it, with 997", ok, leftOut)
		}
		if _, ok := l.Allow("flood"); ok {
			t.Error("a second line after one pause")
		}
		time.Sleep(24 * time.Hour)
		passed = 0
		for range 1000 {
			if _, ok := l.Allow("flood"); ok {
				passed++
			}
		}
		if passed != 3 {
			t.Errorf("%d lines at once after a day, want 3", passed)
		}
	})
}

func TestKindsThatUsersChooseAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(3, pause)
		passed := 0
		for i := range 100 * maxKinds {
			if _, ok := l.Allow(strconv.Itoa(i)); ok {
				passed++
			}
		}
		if passed != maxKinds+3 {
			t.Errorf("%d lines at once, want %d", passed, maxKinds+3)
		}
		if n := len(l.kinds); n > maxKinds+1 {
			t.Errorf("%d kinds are remembered, want %d at most", n, maxKinds+1)
		}
		time.Sleep(time.Hour)
		if _, ok := l.Allow("new"); !ok {
			t.Error("a new kind is left out, though the old ones have rested")
		}
		if n := len(l.kinds); n > 2 {
			t.Errorf("%d kinds are remembered, want those that rest forgotten", n)
		}
	})
}

func TestHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			of    func(*Limiter, slog.Handler) slog.Handler
			lines int // of two kinds, two each
		}{
			{"by message", (*Limiter).Handler, 4},
			{"together", (*Limiter).HandlerOfOne, 2},
		} {
			var out bytes.Buffer
			logger := slog.New(tt.of(New(2, pause), slog.NewTextHandler(&out, nil))).With("a", 1)
			for range 10 {
				logger.Info("one", "b", 2)
				logger.Info("two", "b", 2)
			}
			if got := strings.Count(out.String(), "a=1 b=2\n"); got != tt.lines {
				t.Errorf("%s: %d lines, want %d:\n%s", tt.name, got, tt.lines, &out)
			}
			out.Reset()
			time.Sleep(pause)
			logger.Info("one")
			if got, want := out.String(), map[bool]string{true: " not_logged=8\n", false: " not_logged=18\n"}[tt.lines == 4]; !strings.HasSuffix(got, want) {
				t.Errorf("%s: %q, want the end %q", tt.name, got, want)
			}
		}
	})
}
