// Package deploy tests deploy/, the Dockerfile and the workflows: it does with these files what a
// host would do. It has only tests.
//
// Most need root: they start the exporter as another user, with the capabilities and the seccomp
// filter of the unit, or install packages into a root directory of their own. Everything happens in
// mount and network namespaces that end with the test.
package deploy
