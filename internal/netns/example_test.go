package netns_test

import (
	"fmt"

	"sockstate_exporter/internal/netns"
)

func ExampleInterfaces() {
	names := netns.NewInterfaces(0) // this thread's namespace
	defer names.Close()

	fmt.Printf("%q\n", names.Name(0)) // a socket that is bound to no device
	fmt.Printf("%q\n", names.Name(1)) // loopback, in every namespace
	fmt.Printf("%q\n", names.Name(2_000_000_000))
	fmt.Println(names.Err())
	// Output:
	// ""
	// "lo"
	// "if2000000000"
	// <nil>
}
