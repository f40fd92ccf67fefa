package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sockstate_exporter/test/launch"
)

// The ports of the two servers, and how many clients each has.
const (
	lacking = 4840 // without SO_REUSEADDR
	having  = 4841
	clients = 5
)

// A teller writes the story.
type teller struct {
	out      io.Writer
	exporter *exporter
}

// tell tells the story.
func tell(ctx context.Context, path string, out io.Writer) error {
	e, err := startExporter(ctx, path)
	if err != nil {
		return err
	}
	defer e.stop()
	t := &teller{out: out, exporter: e}
	if err := t.lacks(ctx); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{t.withoutFlag, t.withFlag, t.afterTheFix} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t *teller) say(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

func (t *teller) title(s string) { t.say("%s\n%s\n", s, strings.Repeat("-", len(s))) }

// lacks says what the exporter cannot do here, since the story then misses something.
func (t *teller) lacks(ctx context.Context) error {
	body, err := get(ctx, "/metrics")
	if err != nil {
		return fmt.Errorf("scrape: %w", err)
	}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "sockstate_feature_available{") && strings.HasSuffix(line, " 0\n") {
			t.say("(%s is not available here: %s.)\n", label(line, "feature"), label(line, "reason"))
		}
	}
	return nil
}

// label is the value of a label in a sample.
func label(line, name string) string {
	_, value, _ := strings.Cut(line, name+`="`)
	value, _, _ = strings.Cut(value, `"`)
	return value
}

func (t *teller) withoutFlag(ctx context.Context) error {
	t.title("A server without SO_REUSEADDR")
	t.say("It listens on 0.0.0.0:%d and has %d clients. The exporter can tell that this will go wrong:\n", lacking, clients)
	s, err := t.start(ctx, lacking, false)
	if err != nil {
		return err
	}
	if err := t.metrics(ctx, lacking, "listen", "established"); err != nil {
		return err
	}
	t.say("The server is stopped. It closes first, so its side keeps the connections in TIME_WAIT.")
	if err := t.stop(ctx, s, lacking); err != nil {
		return err
	}
	if err := t.restart(ctx, lacking, false, syscall.EADDRINUSE); err != nil {
		return err
	}
	if err := t.metrics(ctx, lacking, "time_wait"); err != nil {
		return err
	}
	return t.check(ctx, 1, strconv.Itoa(lacking))
}

func (t *teller) withFlag(ctx context.Context) error {
	t.title("The same with SO_REUSEADDR")
	t.say("Another server, on port %d, sets it before bind(). It has as many clients:\n", having)
	s, err := t.start(ctx, having, true)
	if err != nil {
		return err
	}
	if err := t.metrics(ctx, having, "listen", "established"); err != nil {
		return err
	}
	t.say("It is stopped:\n")
	if err := t.stop(ctx, s, having); err != nil {
		return err
	}
	if err := t.metrics(ctx, having, "time_wait"); err != nil {
		return err
	}
	if err := t.check(ctx, 0, "--reuseaddr", strconv.Itoa(having)); err != nil {
		return err
	}
	return t.restart(ctx, having, true, nil)
}

func (t *teller) afterTheFix(ctx context.Context) error {
	t.title("The first restart after the fix")
	t.say("The server on port %d is mended: it sets SO_REUSEADDR now. Its old connections do not have it.", lacking)
	if err := t.restart(ctx, lacking, true, syscall.EADDRINUSE); err != nil {
		return err
	}
	return t.check(ctx, 1, "--reuseaddr", strconv.Itoa(lacking))
}

func (t *teller) start(ctx context.Context, port int, reuseAddr bool) (*server, error) {
	s, err := serve(ctx, port, reuseAddr)
	if err != nil {
		return nil, err
	}
	if err := s.connect(ctx, clients); err != nil {
		return nil, err
	}
	return s, nil
}

// stop stops the server and waits for what is left of it.
func (t *teller) stop(ctx context.Context, s *server, port int) error {
	s.stop()
	want := fmt.Sprintf(`sockstate_tcp_sockets{family="ipv4",port="%d",state="time_wait"} %d`, port, clients)
	for {
		lines, err := metrics(ctx, port, []string{"sockstate_tcp_sockets"})
		if err == nil && slices.Contains(lines, want) {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for TIME_WAIT: %w", err)
		}
	}
}

// restart starts the server anew and expects that answer.
func (t *teller) restart(ctx context.Context, port int, reuseAddr bool, want error) error {
	s, err := serve(ctx, port, reuseAddr)
	if s != nil {
		s.stop()
	}
	if !errors.Is(err, want) {
		return fmt.Errorf("restart on port %d: got %w, the story wants %w", port, err, want)
	}
	if err != nil {
		t.say("Its restart fails:\n\n    %v\n", err)
	} else {
		t.say("Its restart works.\n")
	}
	return nil
}

// shown are the metrics that the story shows.
func shown() []string {
	return []string{
		"sockstate_tcp_sockets",
		"sockstate_tcp_listener_reuseaddr",
		"sockstate_tcp_restart_blocked_seconds",
		"sockstate_tcp_bind_blocked_seconds",
		"sockstate_bind_failures_total",
		"sockstate_bind_conflicts_total",
	}
}

// metrics shows what a scrape says of the port: of sockets those in the states, of counters
// those that count something.
func (t *teller) metrics(ctx context.Context, port int, states ...string) error {
	lines, err := metrics(ctx, port, shown())
	if err != nil {
		return err
	}
	t.say("    $ curl http://%s/metrics", launch.Address)
	for _, line := range lines {
		state := slices.ContainsFunc(states, func(s string) bool { return strings.Contains(line, `state="`+s+`"`) })
		none := strings.HasPrefix(line, "sockstate_bind_") && strings.HasSuffix(line, " 0")
		if strings.Contains(line, `family="ipv6"`) || none || strings.HasPrefix(line, "sockstate_tcp_sockets") && !state {
			continue
		}
		t.say("    %s", line)
	}
	t.say("")
	return nil
}

// check shows what the check command says. Where eBPF is refused it may not know.
func (t *teller) check(ctx context.Context, want int, args ...string) error {
	text, status, err := t.exporter.check(ctx, args...)
	if err != nil {
		return err
	}
	t.say("    $ sockstate_exporter check %s", strings.Join(args, " "))
	for line := range strings.Lines(text) {
		t.say("    %s", strings.TrimRight(line, "\n"))
	}
	t.say("    $ echo $?\n    %d\n", status)
	if status != want && status != 2 {
		return fmt.Errorf("check %s: exit status %d, the story wants %d", strings.Join(args, " "), status, want)
	}
	return nil
}
