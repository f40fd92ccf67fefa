// Command server is the only program in the images of the tests: it listens, or waits, until it is stopped.
//
//	server                  waits (pause)
//	server ADDRESS...       listens on the addresses, and exits with 1 if it cannot
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // a bind that fails is tried once
	for _, address := range os.Args[1:] {
		if _, err := config.Listen(context.Background(), "tcp4", address); err != nil {
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(time.Second) // with cgroup v1, nothing says who a process was that is gone
			os.Exit(1)
		}
	}
	// The first process of a container ignores signals that it does not ask for.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
