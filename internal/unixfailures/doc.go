// Package unixfailures records failed bind() calls of Unix sockets: from the tracer's event to a row of
// /failures and a diagnosis.
//
// A path is looked at after the call, as the process sees it: in its root directory as long as it lives,
// as the exporter sees it where both are in one mount namespace, and otherwise as another process in the
// mount namespace sees it. What others can fill is bounded, and
// each user has a share: rows, and failures that wait for a look.
package unixfailures
