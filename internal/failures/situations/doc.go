// Package situations has no code. Its test makes a situation for each diagnosis, with real sockets, has a
// process fail that ends at once, and checks what a failures.Recorder says: the code, who holds the
// socket, when the trouble ends, and that the remedy works.
//
// SOCKSTATE_SITUATIONS_RUNS is how often each situation is made; 3 where it is not set.
package situations
