package unixlook

import (
	"sync"
	"time"

	"sockstate_exporter/internal/owner"
	"sockstate_exporter/internal/unixsock"
)

// maxRemembered bounds the files whose owners are remembered: all that were seen by their path.
const maxRemembered = 1024

// A memory knows who had the sockets of files.
type memory struct {
	mu    sync.Mutex
	files map[fileID]remembered
}

// A fileID tells a file from a later one that gets its inode number.
type fileID struct {
	major, minor uint32
	inode        uint64
	changed      int64
}

type remembered struct {
	owner owner.Owner
	last  time.Time
}

func idOf(f *unixsock.File) fileID { return fileID{f.Major, f.Minor, f.Inode, f.Changed} }

// note notes who has the socket of a file.
func (m *memory) note(f *unixsock.File, of *owner.Owner) {
	if f.Kind != unixsock.FileSocket || !of.Known() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = make(map[fileID]remembered)
	}
	if _, ok := m.files[idOf(f)]; !ok && len(m.files) >= maxRemembered {
		m.forget()
	}
	m.files[idOf(f)] = remembered{*of, time.Now()}
}

// forget makes room for one more.
func (m *memory) forget() {
	var oldest fileID
	for id, r := range m.files {
		if o, ok := m.files[oldest]; !ok || r.last.Before(o.last) {
			oldest = id
		}
	}
	delete(m.files, oldest)
}

func (m *memory) of(f *unixsock.File) owner.Owner {
	if f.Kind != unixsock.FileSocket {
		return owner.Owner{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files[idOf(f)].owner
}
