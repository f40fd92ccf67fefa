package cli

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"sockstate_exporter/internal/sock"
)

// A value is a flag with an error that names the flag and says what would be right. The errors
// of kingpin do neither. It sets one, or appends to list.
type value[T any] struct {
	flag  string
	parse func(string) (T, error)
	one   *T
	list  *[]T
}

func (v *value[T]) Set(s string) error {
	parsed, err := v.parse(s)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", v.flag, s, err)
	}
	if v.list != nil {
		*v.list = append(*v.list, parsed)
		return nil
	}
	*v.one = parsed
	return nil
}

func (*value[T]) String() string       { return "" }
func (v *value[T]) IsCumulative() bool { return v.list != nil }

func countPorts(ranges []sock.PortRange) int {
	n := 0
	for _, r := range ranges {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

func parseRetention(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("want a duration of 0s or more, such as 90s or 10m")
	}
	return d, nil
}

func atLeast(least int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			return 0, fmt.Errorf("want a whole number, %d or more", least)
		}
		return n, nil
	}
}
