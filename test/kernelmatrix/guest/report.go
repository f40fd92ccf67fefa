package guest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// outputMark starts a line of test output. Every other line is an [Event] in
// JSON, so nothing a test prints can pass for one.
const outputMark = '|'

// Event is one step of the init. Exactly one field is set.
type Event struct {
	Up    *Up    `json:",omitempty"`
	Start string `json:",omitempty"` // import path of the package
	Exit  *Exit  `json:",omitempty"`
	Fatal string `json:",omitempty"` // why the init gave up
	Done  bool   `json:",omitempty"`

	// Output is a line a test binary printed, without its newline.
	Output []byte `json:"-"`
}

// Up says that the guest is ready to run tests.
type Up struct {
	Release string // utsname.release
}

// Exit is the end of one test binary.
type Exit struct {
	Package string
	Code    int    // as a shell would give it: 128 + signal
	Error   string `json:",omitempty"` // why it did not start or had to be killed
	// Left names processes and mounts that outlived the binary.
	Left []string `json:",omitempty"`
}

// Reporter writes events; not safe for concurrent use.
type Reporter struct {
	w io.Writer
}

// NewReporter returns a Reporter that writes to w, one Write a line.
func NewReporter(w io.Writer) *Reporter { return &Reporter{w: w} }

// Report writes one event.
func (r *Reporter) Report(e Event) error {
	line := append([]byte{outputMark}, e.Output...)
	if e.Output == nil {
		var err error
		if line, err = json.Marshal(e); err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
	}
	_, err := r.w.Write(append(line, '\n'))
	return err
}

// Read calls f for each event until the report ends, in the middle of a line
// if need be. It returns nil at the end of r, or the first error of r or f.
func Read(r io.Reader, f func(Event) error) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the guest's report: %w", err)
		}
		e, err := parse(bytes.TrimSuffix(line, []byte{'\n'}))
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

func parse(line []byte) (Event, error) {
	if len(line) > 0 && line[0] == outputMark {
		return Event{Output: line[1:]}, nil
	}
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("guest reported %q: %w", line, err)
	}
	return e, nil
}
