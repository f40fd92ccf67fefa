package containerflags

import (
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"sockstate_exporter/internal/container"
)

func TestPathsOfTheCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want container.Paths
		err  string
	}{
		{want: container.DefaultPaths()},
		{args: []string{"--path.rootfs=/host", "--containers.docker=/data/docker/containers", "--containers.storage="}, want: container.Paths{
			Kubelet: "/host/var/log", Containerd: "/host/run/containerd/io.containerd.runtime.v2.task", Docker: "/host/data/docker/containers",
		}},
		{args: []string{"--containers.docker=docker"}, err: "--containers.docker=docker: want a path that begins with a slash, such as /var/lib/docker/containers"},
		{args: []string{"--path.rootfs=."}, err: "--path.rootfs=.: want a path that begins with a slash, such as /"},
	} {
		app := kingpin.New("test", "")
		flags := Add(app)
		_, err := app.Parse(tt.args)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: got error %v, want %s", tt.args, err, tt.err)
			}
			continue
		}
		if got := flags.Paths(); err != nil || got != tt.want {
			t.Errorf("%q: got %+v, error %v, want %+v", tt.args, got, err, tt.want)
		}
	}
}
