// Package e2e runs the exporter, Prometheus and Alertmanager together, and proves what an
// operator gets: that an alert arrives, with its reason, and is resolved; that every query of
// every dashboard returns data in the state that it is made for; that every alert can fire.
// It has only tests.
//
// The exporters, the servers that they watch, and the sockets that block these servers are in
// network namespaces of the tests. Prometheus and Alertmanager are in another one. Each exporter
// gets a listening socket of that namespace, as from systemd, so no network connects the two.
//
// # What is shortened
//
// Prometheus scrapes every two seconds and evaluates every second. In the rules, every `for` and
// every `keep_firing_for` becomes two seconds, and the interval of each group one second. The
// expressions with their ranges and thresholds do not change, except that CLOSE_WAIT stays where it
// was there for ten seconds in place of five minutes. Alertmanager sends at once.
// TIME_WAIT lasts its full minute, because nothing can shorten it.
//
// # Privileges
//
// Root, since binds are traced; prometheus and prometheus-alertmanager, which .ci/install
// takes out of Debian's packages. Tests that cannot have these are left out. They run in a
// mount namespace of their own with a tmpfs for all files, so that nothing is left behind,
// also by tests that were killed.
package e2e
