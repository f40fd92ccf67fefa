package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A table has a column of names and columns of figures.
type table struct {
	title string
	note  string
	head  []string
	rows  [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// printer writes tables as plain text or in Markdown.
type printer struct {
	w        io.Writer
	markdown bool
}

func (p printer) facts(facts []string) {
	for _, f := range facts {
		if p.markdown {
			f = "- " + f
		}
		fmt.Fprintln(p.w, f)
	}
}

func (p printer) table(t table) {
	heading := ""
	if p.markdown {
		heading = "### "
	}
	fmt.Fprintf(p.w, "\n%s%s\n\n", heading, t.title)

	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	p.row(t.head, width)
	if p.markdown {
		rule := make([]string, len(width))
		for i := range width {
			rule[i] = strings.Repeat("-", max(width[i], 3))
			if i > 0 {
				rule[i] = rule[i][1:] + ":"
			}
		}
		fmt.Fprintf(p.w, "| %s |\n", strings.Join(rule, " | "))
	}
	for _, row := range t.rows {
		p.row(row, width)
	}
	if t.note != "" {
		fmt.Fprintf(p.w, "\n%s\n", t.note)
	}
}

// row puts names to the left and figures to the right.
func (p printer) row(cells []string, width []int) {
	padded := make([]string, len(cells))
	for i, cell := range cells {
		space := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			padded[i] = cell + space
		} else {
			padded[i] = space + cell
		}
	}
	if p.markdown {
		fmt.Fprintf(p.w, "| %s |\n", strings.Join(padded, " | "))
	} else {
		fmt.Fprintf(p.w, "%s\n", strings.TrimRight(strings.Join(padded, "  "), " "))
	}
}

// ms is a duration in milliseconds, to three digits or so.
func ms(d time.Duration) string {
	v := d.Seconds() * 1000
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64) + " ms"
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64) + " ms"
	default:
		return strconv.FormatFloat(v, 'f', 0, 64) + " ms"
	}
}

// times is a as a multiple of b.
func times(a, b time.Duration) string {
	if b == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(a)/float64(b), 'f', 2, 64)
}

func mebibytes(bytes float64) string { return strconv.FormatFloat(bytes/(1<<20), 'f', 1, 64) + " MiB" }
func kibibytes(bytes float64) string { return strconv.FormatFloat(bytes/(1<<10), 'f', 0, 64) + " KiB" }

// thousands writes 1000000 as 1,000,000.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
