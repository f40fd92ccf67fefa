package snapshot

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"sockstate_exporter/internal/failures"
	"sockstate_exporter/internal/netns"
	"sockstate_exporter/internal/stack"
	"sockstate_exporter/netlinkdiag"
)

// isPart says whether a type is Part[T] of some T.
func isPart(typ reflect.Type) bool {
	return typ.PkgPath() == reflect.TypeFor[Snapshot]().PkgPath() && strings.HasPrefix(typ.Name(), "Part[")
}

// partFields returns the fields of a struct that are Parts, by name. It reads the type, and does not
// use the code that it is here to check.
func partFields(t *testing.T, structure any) map[string]error {
	t.Helper()
	v := reflect.ValueOf(structure)
	out := make(map[string]error)
	for i := range v.NumField() {
		field := v.Type().Field(i)
		switch {
		case isPart(field.Type):
			err, _ := v.Field(i).FieldByName("Err").Interface().(error)
			out[field.Name] = err
		case !field.IsExported():
			t.Errorf("%v has the field %s, which is not exported", v.Type(), field.Name)
		case hidesPart(field.Type):
			t.Errorf("%v has parts in its field %s, whose errors nobody handles", v.Type(), field.Name)
		}
	}
	return out
}

// hidesPart: a value of the type holds Parts that are no fields of a Namespace or Snapshot.
func hidesPart(typ reflect.Type) bool {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return isPart(typ.Elem()) || hidesPart(typ.Elem())
	case reflect.Struct:
		if typ == reflect.TypeFor[Namespace]() {
			return false
		}
		for i := range typ.NumField() {
			if f := typ.Field(i).Type; isPart(f) || hidesPart(f) {
				return true
			}
		}
	}
	return false
}

func checkEveryPart(t *testing.T, what string, structure any, want error) {
	t.Helper()
	parts := partFields(t, structure)
	if len(parts) == 0 {
		t.Errorf("%s: no parts", what)
	}
	for name, err := range parts {
		if !errors.Is(err, want) {
			t.Errorf("%s: %s has the error %v, want %v", what, name, err, want)
		}
	}
}

// A part that is added to Namespace or Snapshot is absent until it is taken, without another line of code.
func TestEveryPartIsPendingUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := make(chan struct{})
		cfg := newFake().config()
		cfg.Host.Dial = func(int) (*netlinkdiag.Conn, error) { <-blocked; return nil, errDial }
		cfg.Host.Stack = func() (stack.Stats, error) { <-blocked; return stack.Stats{}, nil }
		taker := newTaker(t, cfg, discovering())
		a := taker.join(false)
		defer taker.leave(a)
		defer close(blocked)
		synctest.Wait()
		a.publish(func(s *Snapshot) {
			s.expect(&netns.Set{Namespaces: []*netns.Namespace{{Name: "blue"}, {Name: "red"}}})
		})

		for _, tt := range []struct{ cause, want error }{{errEnough, errEnough}, {nil, errPending}} {
			s := a.view(tt.cause)
			checkEveryPart(t, "snapshot", s, tt.want)
			checkEveryPart(t, "own namespace", s.Namespace, tt.want)
			if len(s.Others) != 2 {
				t.Fatalf("%d other namespaces, want 2", len(s.Others))
			}
			for _, other := range s.Others {
				checkEveryPart(t, other.Name, other, tt.want)
			}
		}
	})
}

// What is there keeps its own error, or none, when time is up.
func TestTimeIsUpForMissingPartsOnly(t *testing.T) {
	for field := range partFields(t, Namespace{}) {
		var a attempt
		for err := range a.snap.errs() {
			*err = errPending
		}
		reflect.ValueOf(&a.snap.Namespace).Elem().FieldByName(field).SetZero()
		s := a.view(errEnough)
		for name, err := range partFields(t, s.Namespace) {
			if want := map[bool]error{false: errEnough}[name == field]; !errors.Is(err, want) {
				t.Errorf("with %s: %s has the error %v, want %v", field, name, err, want)
			}
		}
	}
}

// Parts that are optional do not matter, whatever their error.
func TestReadyWhenSockDiagAnsweredOrIsMissing(t *testing.T) {
	for field := range partFields(t, Namespace{}) {
		required := field == "Watch" || field == "TCP"
		for _, tt := range []struct {
			err  error
			want bool
		}{{nil, true}, {errStack, !required}, {errPending, !required}, {ErrOff, true}, {&netlinkdiag.ModuleError{Module: "tcp_diag"}, true}} {
			s := Snapshot{Binds: Part[failures.Binds]{Err: errStack}}
			if tt.err != nil {
				reflect.ValueOf(&s.Namespace).Elem().FieldByName(field).FieldByName("Err").Set(reflect.ValueOf(tt.err))
			}
			if got := s.answered(); got != tt.want {
				t.Errorf("%s with error %v: answered is %v, want %v", field, tt.err, got, tt.want)
			}
		}
	}
}
