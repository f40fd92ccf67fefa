// Package containerflags has the flags that say where the names of containers are.
package containerflags

import (
	"fmt"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"

	"sockstate_exporter/internal/container"
)

// Flags say where the names of containers are. They hold once the command line is parsed.
type Flags struct {
	root  string
	paths container.Paths
}

// Add adds the flags.
func Add(app *kingpin.Application) *Flags {
	f := &Flags{paths: container.DefaultPaths()}
	add := func(name, help, start string, to *string) {
		app.Flag(name, help).PlaceHolder("PATH").Default(start).SetValue(&folder{name, start, to})
	}
	add("path.rootfs", "Where the root of the host is mounted. The names of containers are looked for below it.", "/", &f.root)
	for _, p := range []struct {
		name, of string
		to       *string
	}{
		{"containers.kubelet", "the kubelet's logs, which have the names of pods and containers", &f.paths.Kubelet},
		{"containers.containerd", "containerd's tasks", &f.paths.Containerd},
		{"containers.docker", "Docker's containers", &f.paths.Docker},
		{"containers.storage", "the containers of CRI-O and Podman", &f.paths.Storage},
	} {
		add(p.name, fmt.Sprintf("Folder of %s (%s). Empty: not looked at.", p.of, *p.to), *p.to, p.to)
	}
	return f
}

// Paths returns where the names of containers are.
func (f *Flags) Paths() container.Paths { return f.paths.Below(f.root) }

// A folder is the value of a flag.
type folder struct {
	flag, example string
	to            *string
}

// Set implements kingpin.Value.
func (f *folder) Set(s string) error {
	if s != "" && !filepath.IsAbs(s) {
		return fmt.Errorf("--%s=%s: want a path that begins with a slash, such as %s", f.flag, s, f.example)
	}
	*f.to = s
	return nil
}

// String implements kingpin.Value.
func (*folder) String() string { return "" }
