// Package scenarios has no code. Its tests have real servers of Debian fail to bind, as people meet it: each
// checks the code, the holder and the remedy of the diagnosis that the exporter gives, does what the remedy
// says, and sees that the server starts then.
//
// Each scenario has a network namespace of its own. Programs that want files of the system (/run, users)
// get them in a mount namespace. Which program is in which package of Debian is in .ci/install.
//
// internal/failures/situations makes a situation for each diagnosis, with sockets of its own.
package scenarios
