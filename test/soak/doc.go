// Package soak tests that the exporter keeps working for long under heavy load: twenty thousand
// connections a second, many scrapers at once, clients that never read, users who listen on ten
// thousand addresses or fail to bind a million times, and kill -9 at any moment. It runs the
// binary that is shipped, as a process in a network namespace of its own, and looks at it from
// outside: what it serves, and its memory, descriptors and threads in /proc.
//
// One test has everything come and go that the exporter counts, and a scraper that checks each answer
// as Prometheus would see it: a minute, or ten times as long as the other loads.
//
// As ordinary tests the others last seconds. `make soak` sets SOCKSTATE_SOAK to how long each
// lasts, and prints the figures of docs/reliability.md. No test asserts how long something
// took; what must not grow is compared within the run.
//
// It needs root.
package soak
