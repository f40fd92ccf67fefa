package watch_test

import (
	"fmt"
	"time"

	"sockstate_exporter/internal/watch"
)

func Example() {
	opcua, err := watch.ParseSpec("4840:opcua")
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := watch.New(watch.Config{
		Ports:     []watch.Spec{opcua},
		Listeners: true,
		Retention: 10 * time.Minute,
		MaxPorts:  512,
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	start := time.Now()
	w.Update(start, []watch.Server{{Port: 22, Cookie: 1}, {Port: 4840, Cookie: 2}})
	w.Lingering([]uint16{4840})

	// An hour later nothing listens: 22 is forgotten, 4840 was asked for.
	set := w.Update(start.Add(time.Hour), nil)
	fmt.Println(set.Ports, set.Dropped)
	// Output: [{4840 opcua flag}] 0
}
