package main

import (
	"bytes"
	"os"
	"testing"

	"sockstate_exporter/collector"
)

func TestReferenceIsUpToDate(t *testing.T) {
	const path = "../../docs/metrics.md"
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := reference(collector.New(nil, nil, nil).Metrics()); !bytes.Equal(got, want) {
		t.Errorf("%s is not what the collectors define: run `make generate`", path)
	}
}
