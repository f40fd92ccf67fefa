package main

import (
	"fmt"
	"os"
)

func main() {
	r := newReport(os.Stdout)
	if err := r.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if !r.summarize(os.Getenv("SOCKSTATE_REQUIRE_ALL") == "1") {
		os.Exit(1)
	}
}
