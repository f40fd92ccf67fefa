// Package e2e runs the exporter, Prometheus and Alertmanager together, and proves what an
// operator gets: that an alert arrives, with its reason, and is resolved; that every query of
// every dashboard returns data in the state that it is made for; that every alert can fire.
// It has only tests.
//
// The exporters, the servers they watch and the sockets in the way of those stand in network
// namespaces of the tests. So do Prometheus and Alertmanager, in one of their own: an exporter
// is handed a listening socket of that one, as systemd would, and needs no network between.
//
// # What is shortened
//
// Prometheus scrapes every two seconds and evaluates every second. Of the rules, every `for` and
// every `keep_firing_for` becomes two seconds, and the groups' intervals one; expressions, their
// ranges and their thresholds are as they are. Alertmanager sends at once. TIME_WAIT takes its
// minute: nothing can shorten it, and it is what all of this is about.
//
// # Privileges
//
// Root, since binds are traced; prometheus and prometheus-alertmanager, which .ci/install
// takes out of Debian's packages. Tests that cannot have these are left out. They run in a
// mount namespace of their own with a tmpfs for all files, so that nothing is left behind,
// also by tests that were killed.
package e2e
