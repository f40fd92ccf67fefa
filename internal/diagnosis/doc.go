// Package diagnosis says why a bind(), listen() or connect() failed, or why the restart of a server
// would fail.
//
// Facts go in, and one Diagnosis comes out: a code, the holder, when it ends, a sentence, and a
// remedy. The package is pure. It is the only place of the project that says in English
// what blocks a port. Catalogue has what is always true of a code; docs/diagnoses.md is written from it.
package diagnosis

//go:generate go run sockstate_exporter/internal/metricsdoc -diagnoses -o ../../docs/diagnoses.md
//go:generate go run sockstate_exporter/internal/metricsdoc -rules ../../alerts/sockstate.rules.yml
