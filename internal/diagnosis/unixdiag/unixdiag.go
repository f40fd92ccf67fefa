// Package unixdiag explains in English what is at the path of a Unix socket.
package unixdiag

import (
	"path/filepath"

	"sockstate_exporter/internal/diagnosis"
	"sockstate_exporter/internal/diagnosis/codes"
	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
	"sockstate_exporter/internal/words"
	"sockstate_exporter/netlinkdiag"
)

// Of says why a bind to the name would fail, or has failed. It is nil where nothing is in the way.
func Of(v *unixsock.Verdict) *diagnosis.Diagnosis {
	name := v.Name.String()
	dir := words.Name(filepath.Dir(v.Name.Path))
	switch v.State {
	case unixsock.InUse:
		return inUse(v)
	case unixsock.Stale:
		return stale(v)
	case unixsock.Occupied:
		return simple(codes.UnixNoSocket, v.File.What+" is at "+name)
	case unixsock.NoDirectory:
		return simple(codes.UnixDirectoryMissing, "the directory "+dir+" does not exist")
	case unixsock.Denied:
		return simple(codes.UnixDenied, "a file in "+dir+" may not be made"+because(v.File.Err))
	case unixsock.Unknown:
		d := simple(codes.Unknown, "the exporter could not look at "+name+because(firstOf(v.File.Err, v.Lack)))
		d.End = diagnosis.End{Kind: diagnosis.EndUnknown}
		return d
	default:
		return nil
	}
}

// Unreached says which servers nobody reaches by the name. It is nil where there are none.
func Unreached(v *unixsock.Verdict) *diagnosis.Diagnosis {
	if len(v.CutOff) == 0 {
		return nil
	}
	code, why := codes.UnixUnlinked, "; its file is gone"
	switch {
	case len(v.Holders) > 0:
		code, why = codes.UnixShadowed, "; the path leads to the socket of "+process(&v.Holders[0])
	case v.File.Kind == unixsock.FileSocket:
		why = "; the file at the path is another one"
	}
	d := simple(code, who(v.CutOff)+" "+verb(v.CutOff)+" "+v.Name.String()+", and no client reaches it"+why)
	d.Holder = v.CutOff[0].Owner
	return d
}

func simple(code codes.Code, sentence string) *diagnosis.Diagnosis {
	return &diagnosis.Diagnosis{
		Code: code, Sentence: sentence, Brief: sentence, Why: sentence, Remedy: code.Remedy(), End: diagnosis.End{Kind: diagnosis.EndChanged},
	}
}

func inUse(v *unixsock.Verdict) *diagnosis.Diagnosis {
	sentence := "somebody listens on " + v.Name.String() + ", whose socket could not be seen"
	if len(v.Holders) > 0 {
		sentence = who(v.Holders) + " " + verb(v.Holders) + " " + v.Name.String()
	}
	d := simple(codes.UnixInUse, sentence)
	d.End.Kind = diagnosis.EndClosed
	if v.Name.Abstract {
		d.Remedy = "Stop the other server, or use another name."
	}
	if len(v.Holders) > 0 {
		d.Holder, d.State = v.Holders[0].Owner, v.Holders[0].State.String()
	}
	return d
}

func stale(v *unixsock.Verdict) *diagnosis.Diagnosis {
	from := ""
	if v.Left.Known() {
		from = " from " + words.Process(v.Left.Process, v.Left.PID, placeOf(&v.Left), 0)
	}
	d := simple(codes.UnixStaleFile, "the file "+v.Name.String()+" is left over"+from+", and nobody listens there")
	if !v.Certain() {
		d.Sentence = "the file " + v.Name.String() + " is probably left over" + from + ": no socket that could be seen has it" + because(v.Lack)
		d.Brief, d.Why = d.Sentence, d.Sentence
	}
	d.Remedy = "Remove it: " + RemoveCommand(v.Name.Path) + ". Better let the server remove it before bind()."
	return d
}

// Who names the processes that have sockets open.
func Who(sockets []unixsock.Socket) string { return who(sockets) }

func who(sockets []unixsock.Socket) string {
	var names []string
	for i := range sockets {
		names = append(names, process(&sockets[i]))
	}
	return words.And(words.FirstOf(names))
}

func process(s *unixsock.Socket) string {
	o := &s.Owner
	if !o.Known() {
		switch o.Absence {
		case owner.NoProcess:
			return "a socket that no process has open"
		default:
			return "a process that is not known"
		}
	}
	who := words.Process(o.Process, o.PID, placeOf(o), max(o.Processes-1, 0))
	if s.Netns != "" {
		who += " in the network namespace " + words.Name(s.Netns)
	}
	return who
}

func placeOf(o *owner.Owner) words.Place {
	return words.Place{Unit: o.ShownUnit(), Pod: o.Named.PodName(), Container: o.ShownContainer()}
}

// verb says what the first socket does there.
func verb(sockets []unixsock.Socket) string {
	s := &sockets[0]
	switch {
	case s.State == netlinkdiag.StateListen:
		return "listens on"
	case s.Type == netlinkdiag.UnixDatagram:
		return "receives datagrams on"
	default:
		return "has bound, and does not listen on,"
	}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + words.OneLine(err.Error()) + ")"
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
