package pages

import "slices"

// A Problem is what is wrong with a port, in a word.
type Problem string

// The problems.
const (
	Down           Problem = "down"
	NoListener     Problem = "no_listener"
	NoSocket       Problem = "no_socket"
	QueueFull      Problem = "queue_full"
	RestartBlocked Problem = "restart_blocked"
	BindsFail      Problem = "binds_fail"
	BindsFailed    Problem = "binds_failed"
	Dropping       Problem = "dropping"
	NotKnown       Problem = "unknown"
	ListenerGone   Problem = "listener_gone"
	SplitPort      Problem = "split"
	SharedPort     Problem = "shared"
	OnlyIPv6       Problem = "only_ipv6"
	NoReuseAddr    Problem = "no_reuseaddr"
	Fine           Problem = ""
)

// problems are all of them, the worst first.
var problems = [...]struct {
	Problem
	text  string
	level Level
}{
	{Down, "down and blocked", bad},                   // no listener, and a bind would fail, or fails
	{NoListener, "nobody listens", bad},               // on a port of --watch.port
	{NoSocket, "no socket", bad},                      // on a UDP port of --watch.port
	{QueueFull, "accept queue full", bad},             //
	{RestartBlocked, "restart blocked", bad},          // it listens, and a restart would fail
	{BindsFail, "binds fail", warn},                   // for any reason, and none has worked since
	{BindsFailed, "binds failed", warn},               // in the last minutes, beside a server that is fine
	{Dropping, "dropping", warn},                      // a UDP port dropped datagrams, and its queue is not empty
	{NotKnown, "not known", warn},                     // whether a restart would fail
	{ListenerGone, "listener gone", warn},             // it closed a short time ago
	{SplitPort, "split", warn},                        // IPv4 and IPv6 in different hands, or one of them missing
	{SharedPort, "shared by different servers", warn}, // different servers share the UDP port by a flag
	{OnlyIPv6, "only IPv6 is served", warn},           // the IPv4 half of the server may have failed
	{NoReuseAddr, "no SO_REUSEADDR", warn},            // on a listener
	{Fine, "fine", good},                              //
}

func (p Problem) rank() int {
	for i := range problems {
		if problems[i].Problem == p {
			return i
		}
	}
	return len(problems) - 1
}

// Text is the problem in words.
func (p Problem) Text() string { return problems[p.rank()].text }

// Level is how bad the problem is.
func (p Problem) Level() Level { return problems[p.rank()].level }

// A problemSet has problems by rank.
type problemSet [len(problems)]bool

func (s *problemSet) add(p Problem, found bool) {
	if found {
		s[p.rank()] = true
	}
}

// worst is the rank of the worst problem.
func (s *problemSet) worst() int {
	if i := slices.Index(s[:], true); i >= 0 {
		return i
	}
	return Fine.rank()
}

func (s *problemSet) list() []Problem {
	out := []Problem{}
	for i, found := range s {
		if found {
			out = append(out, problems[i].Problem)
		}
	}
	return out
}
