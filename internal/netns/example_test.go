package netns_test

import (
	"fmt"

	"sockstate_exporter/internal/linux"
	"sockstate_exporter/internal/netns"
)

func ExampleInterfaces() {
	names := netns.NewInterfaces(0) // this thread's namespace
	defer names.Close()

	fmt.Printf("%q\n", names.Name(0)) // a socket that is bound to no device
	fmt.Printf("%q\n", names.Name(1)) // loopback, in every namespace
	fmt.Printf("%q\n", names.Name(2_000_000_000))
	// Output:
	// ""
	// "lo"
	// "if2000000000"
}

func ExampleDiscoverer() {
	spec, err := netns.ParseSpec("/proc/thread-self/ns/net")
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := netns.New(netns.Config{Specs: []netns.Spec{spec}})
	if err != nil {
		fmt.Println(err)
		return
	}

	set := d.Open()
	for _, ns := range set.Namespaces {
		err := linux.RunInNetNS(ns.FD(), func() error {
			// What is opened here is of ns, and is closed here.
			return nil
		})
		fmt.Println(ns.Name, err, ns.Close())
	}
	fmt.Println(len(set.Namespaces), set.Err) // the caller's own is never in it
	// Output: 0 <nil>
}
