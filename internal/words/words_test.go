package words

import (
	"slices"
	"testing"
	"time"
)

func TestWords(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{Name("kworker/0:1"), "kworker/0:1"},
		{Name("a b\n\xff"), `"a b\n\xff"`},
		{OneLine("say \"hi\"\n"), `say "hi"\n`},
		{Plural(1, "socket"), "1 socket"},
		{Plural(0, "socket"), "0 sockets"},
		{Counted(2, "more process", "more processes"), "2 more processes"},
		{And(nil), ""},
		{And([]string{"a"}), "a"},
		{And([]string{"a", "b", "c"}), "a, b and c"},
		{And(FirstOf([]string{"a", "b", "c", "d", "e"})), "a, b, c and 2 more"},
		{Few([]string{"c", "a", "b", "a"}), "a, b, c"},
		{Few([]string{"d", "c", "a", "b"}), "a, b, c, ..."},
		{Wait(time.Second + 1), "2 s"},
		{Seconds(0), "0 s"},
		{Process("nginx", 7, Place{Unit: "nginx.service", Container: "web"}, 2), "nginx in container web (pid 7, nginx.service) and 2 more"},
		{Process("nginx", 7, Place{Pod: "shop/web-7d9f4-abcde", Container: "nginx"}, 0), "nginx in pod shop/web-7d9f4-abcde (pid 7, container nginx)"},
		{Process("nginx", 0, Place{Pod: "shop/web-7d9f4-abcde"}, 0), "nginx in pod shop/web-7d9f4-abcde"},
		{Process("", 0, Place{}, 0), "unnamed process"},
		{Place{Unit: "a.service", Pod: "shop/web", Container: "nginx"}.String(), "pod shop/web, a.service, container nginx"},
		{Place{Unit: "a.service", Container: "we\nb"}.String(), `container "we\nb", a.service`},
		{Place{}.String(), ""},
		{Port(80), "port 80"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestListsLeaveTheirArgumentAlone(t *testing.T) {
	items := []string{"d", "c", "a", "b"}
	_, _ = Few(items), FirstOf(items)
	if !slices.Equal(items, []string{"d", "c", "a", "b"}) {
		t.Errorf("items are %v now", items)
	}
}
