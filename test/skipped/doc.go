// Command skipped reads events of `go test -json`, and prints how many tests were left out, by
// reason. It fails when there are some and SOCKSTATE_REQUIRE_ALL is 1. It needs no privileges.
package main
