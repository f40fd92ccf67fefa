package main

import (
	"fmt"
	"io"
	"path"
)

// cpioWriter writes an archive in the only format the kernel unpacks: "newc",
// see Documentation/driver-api/early-userspace/buffer-format.rst.
type cpioWriter struct {
	w    io.Writer
	ino  uint32
	size int64 // bytes written
	dirs map[string]bool
}

const (
	modeDir     = 0o040755
	modeProgram = 0o100755
	modeFile    = 0o100644
)

func newCPIOWriter(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{".": true, "/": true}}
}

// add writes a file of size bytes, and the directories above it that are not
// there yet. The owner is root.
func (c *cpioWriter) add(name string, mode uint32, size int64, r io.Reader) error {
	name = path.Clean(name)
	if err := c.mkdir(path.Dir(name)); err != nil {
		return err
	}
	if size < 0 || size > 0xffffffff {
		return fmt.Errorf("archive %s: %d bytes do not fit newc", name, size)
	}
	if err := c.header(name, mode, size); err != nil {
		return err
	}
	n, err := io.Copy(c, io.LimitReader(r, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	return c.pad()
}

func (c *cpioWriter) mkdir(name string) error {
	if c.dirs[name] {
		return nil
	}
	if err := c.mkdir(path.Dir(name)); err != nil {
		return err
	}
	c.dirs[name] = true
	return c.header(name, modeDir, 0)
}

// close ends the archive; it does not close the underlying writer.
func (c *cpioWriter) close() error {
	return c.header("TRAILER!!!", 0, 0)
}

func (c *cpioWriter) header(name string, mode uint32, size int64) error {
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj,
	// rmin, namesize, chksum
	_, err := fmt.Fprintf(c, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if err != nil {
		return err
	}
	return c.pad()
}

// pad aligns to four bytes, as headers and data must be.
func (c *cpioWriter) pad() error {
	_, err := c.Write(make([]byte, -c.size&3))
	return err
}

func (c *cpioWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.size += int64(n)
	return n, err
}
