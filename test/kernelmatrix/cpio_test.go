package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestArchiveIsNewc(t *testing.T) {
	var b bytes.Buffer
	c := newCPIOWriter(&b)
	if err := c.add("a/b", modeFile, 5, strings.NewReader("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.add("a/c", modeProgram, 0, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	// As made by cpio -o -H newc, but for owner, times and inode numbers.
	const rest = "00000000" + "00000000" + "00000001" + "00000000"
	const devices = "00000000" + "00000000" + "00000000" + "00000000"
	want := "070701" + "00000001" + "000041ed" + rest + "00000000" + devices + "00000002" + "00000000" + "a\x00" +
		"070701" + "00000002" + "000081a4" + rest + "00000005" + devices + "00000004" + "00000000" + "a/b\x00\x00\x00" +
		"hello\x00\x00\x00" +
		"070701" + "00000003" + "000081ed" + rest + "00000000" + devices + "00000004" + "00000000" + "a/c\x00\x00\x00" +
		"070701" + "00000004" + "00000000" + rest + "00000000" + devices + "0000000b" + "00000000" + "TRAILER!!!\x00\x00\x00\x00"
	if got := b.String(); got != want {
		t.Errorf("archive is\n%q, want\n%q", got, want)
	}
}

func TestArchiveRefusesAFileThatShrank(t *testing.T) {
	err := newCPIOWriter(io.Discard).add("x", modeFile, 5, strings.NewReader("four"))
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestArchiveTakesNoMoreThanTheSize(t *testing.T) {
	var grown, exact bytes.Buffer
	if err := newCPIOWriter(&grown).add("x", modeFile, 4, strings.NewReader("fourteen")); err != nil {
		t.Fatal(err)
	}
	if err := newCPIOWriter(&exact).add("x", modeFile, 4, strings.NewReader("four")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(grown.Bytes(), exact.Bytes()) {
		t.Errorf("archive is %q, want %q", grown.Bytes(), exact.Bytes())
	}
}

func TestArchiveRefusesSizesBeyond32Bits(t *testing.T) {
	err := newCPIOWriter(io.Discard).add("x", modeFile, 1<<32, strings.NewReader(""))
	if err == nil || err.Error() != "archive x: 4294967296 bytes do not fit newc" {
		t.Errorf("error %v", err)
	}
}
