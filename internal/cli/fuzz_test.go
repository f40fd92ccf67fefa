package cli

import (
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzCommandLine: whatever the arguments are, one a line, they are refused with a reason or
// give options in the ranges that their fields promise.
func FuzzCommandLine(f *testing.F) {
	for _, args := range []string{
		"", "--help", "--version", "4840", "check\n4840",
		"--watch.port=4840:opcua\n--watch.port=8000-8010\n--watch.port=53/udp:dns",
		"--watch.exclude=22\n--no-watch.listeners\n--watch.retention=90s",
		"--watch.max-ports=3\n--watch.remote-port=5432\n--watch.remote-port=9092-9095",
		"--netns=blue\n--netns=cni-*\n--netns=/var/run/docker/netns/*\n--netns.processes",
		"--web.listen-address=[::1]:9\n--web.max-requests=0\n--log.level=debug\n--log.format=json",
		"--watch.port\n80\n--\n--watch.port=81", "--watch.port=80:a\n--watch.port=80:b", "--no-collector.tcp\n-h",
	} {
		f.Add(args)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		args := strings.Split(lines, "\n")
		for _, arg := range args {
			// They name files, which may be devices that never end.
			if strings.HasPrefix(arg, "@") || strings.Contains(arg, "config.file") {
				return
			}
		}
		opts, err := Parse(args, io.Discard, io.Discard)
		switch {
		case err != nil && (opts != nil || err.Error() == ""):
			t.Errorf("options %+v beside error %q", opts, err)
		case err != nil && utf8.ValidString(lines) && !utf8.ValidString(err.Error()):
			t.Errorf("error %q is no text", err)
		case err != nil || opts == nil: // it asked for help
		case opts.Sources.Watch == nil, opts.Sources.Retention < 0, opts.MaxRequests < 0, countPorts(opts.Sources.RemotePorts) > 1<<16:
			t.Errorf("options out of range: %+v", opts)
		}
	})
}
