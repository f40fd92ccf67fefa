// Command servers measures how usual servers open their listeners, and whether they can be restarted
// right after they closed a connection. It writes docs/servers.md:
//
//	apt-get install --no-install-recommends $(go -C test run ./servers -packages)
//	go -C test run ./servers >docs/servers.md
//
// Each server runs in a network namespace of its own, with the configuration that is in servers.go:
// the packaged one, or the least that makes it listen. A server that is not installed is left out,
// and standard error says so. It needs root.
package main
