// Package httplimit bounds what clients of the HTTP server can take from it and from each other:
// connections ([Connections]), requests at a time ([Slots]), and answers that nobody reads
// ([Compressed]).
//
// Clients share fairly: where a bound is reached, the client that has most gives something up. A
// client that has little is served whatever the others do. A client that asks for more than its
// share is refused.
package httplimit
