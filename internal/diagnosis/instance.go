package diagnosis

import (
	"fmt"
	"path"
	"strings"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/words"
)

// SameProgram says that the holder is another instance of the program that made the call. A name proves
// nothing: any process can have it. So it takes the executable, or the systemd service, too.
func (f *Facts) SameProgram(b *Blocker) bool {
	h := &b.Holder
	sameExe := h.Exe != "" && h.Exe == f.By.Exe && h.Container == f.By.Container && !owner.RunsOthers(path.Base(h.Exe))
	sameService := strings.HasSuffix(h.Unit, ".service") && h.Unit == f.By.Unit && h.Container == f.By.Container && h.Process == f.Process
	return sameExe || sameService
}

// namesake says that the holder may be another instance.
func (f *Facts) namesake(b *Blocker) bool {
	return f.SameProgram(b) || f.Process != "" && b.Holder.Process == f.Process && !owner.RunsOthers(f.Process) && !owner.RunsOthers(path.Base(b.Holder.Exe))
}

// leftOver follows the remedy where the process that opened the socket is gone, and another one of the program has
// it: a daemon went into the background, or workers are left of a server whose main process was killed.
func leftOver(h *owner.Owner) string {
	if h.Opener == nil || !h.Opener.Ended || !h.Opener.SameProgram {
		return ""
	}
	return fmt.Sprintf(" If its main process (pid %d) was killed, end what is left of it: %s.", h.Opener.PID, Process(h))
}

// otherInstance follows the remedy where the holder has the name of the program that made the call, and
// no more is known.
func otherInstance(h *owner.Owner) string {
	return " It has the name of the program that failed, " + words.Name(h.Process) + ": it may be another instance of it."
}
