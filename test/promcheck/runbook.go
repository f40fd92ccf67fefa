package promcheck

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// LoadRunbook reads the fenced promql blocks of a Markdown file; each is one query.
func LoadRunbook(path string) ([]Query, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read runbook: %w", err)
	}
	var queries []Query
	var block []string
	start, in := 0, false
	for i, line := range strings.Split(string(data), "\n") {
		fence := strings.TrimSpace(line)
		switch {
		case !in && fence == "```promql":
			start, in, block = i+1, true, nil
		case in && fence == "```":
			in = false
			queries = append(queries, Query{
				Kind:    KindRunbook,
				Place:   fmt.Sprintf("%s:%d", filepath.Base(path), start),
				Expr:    strings.Join(block, "\n"),
				Instant: true,
			})
		case in:
			block = append(block, line)
		}
	}
	if in {
		return nil, fmt.Errorf("%s:%d: promql block without an end", filepath.Base(path), start)
	}
	return queries, nil
}

// LoadRunbooks reads all Markdown files of a directory.
func LoadRunbooks(dir string) ([]Query, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return nil, fmt.Errorf("list runbooks: %w", err)
	}
	var all []Query
	for _, path := range paths {
		queries, err := LoadRunbook(path)
		if err != nil {
			return nil, err
		}
		all = append(all, queries...)
	}
	return all, nil
}
