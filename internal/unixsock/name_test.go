package unixsock

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"/run/app.sock":                "/run/app.sock",
		"./app.sock":                   "./app.sock",
		"@app":                         "@app",
		"@a b\n":                       `"@a b\n"`,
		"/run/\xff":                    `"/run/\xff"`,
		"/" + strings.Repeat("x", 107): "/" + strings.Repeat("x", 107),
		"/" + strings.Repeat("x", 108): "error: 109 bytes long, and the kernel takes at most 108 (sun_path)",
		"app.sock":                     "error: want a path that begins with / or ./ (/run/app.sock, ./app.sock), or an abstract name (@app)",
		"../app.sock":                  "../app.sock",
		"10.0.0.0/8":                   "error: want a path that begins with / or ./ (/run/app.sock, ./app.sock), or an abstract name (@app)",
		"@":                            "error: an abstract name without a name, want @app",
		"/run/":                        "error: a directory, want the path of a socket in it",
		"@" + strings.Repeat("x", 107): "@" + strings.Repeat("x", 107),
		"/run/a\x00b":                  "error: a path has no byte 0",
		"http":                         "error: want a path that begins with / or ./ (/run/app.sock, ./app.sock), or an abstract name (@app)",
	} {
		name, err := ParseName(in)
		got := name.String()
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("ParseName(%q) is %s, want %s", in, got, want)
		}
	}
}
