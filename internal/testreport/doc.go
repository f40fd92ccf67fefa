// Command testreport reads the output of `go test -json` on its standard
// input and prints what a person wants of it: the closing line of each
// package, everything a failed test said, and at the end each test that was
// left out, with its reason.
//
// It exits 1 when a test or a build failed, and, when SOCKSTATE_REQUIRE_ALL is
// 1, also when a test was left out: internal/kerneltest then fails instead of
// skipping, and a test that calls t.Skip itself must not get around it. It
// cannot see that `go test` itself was killed; the caller checks that exit
// code too.
//
// It needs no privileges.
package main
