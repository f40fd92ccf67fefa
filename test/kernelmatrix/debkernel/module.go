package debkernel

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sockstate_exporter/test/kernelmatrix/command"
)

// Module is a kernel module.
type Module struct {
	Name string
	Data []byte // the file, uncompressed
}

// Modules returns the wanted modules and those that they need, in an order in
// which they can be loaded. It leaves out what is built into the kernel. The
// dependencies come from the modules, because Debian writes modules.dep only
// when a package is installed.
func (k Kernel) Modules(ctx context.Context, wanted []string) ([]Module, error) {
	files, err := moduleFiles(k.modules)
	if err != nil {
		return nil, err
	}
	list, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	builtin := builtinModules(string(list))

	var ordered []Module
	seen := make(map[string]bool)
	var add func(name string) error
	add = func(name string) error {
		if seen[name] || builtin[name] {
			return nil
		}
		seen[name] = true
		file, ok := files[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.Release, name)
		}
		data, err := readModule(ctx, file)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		ordered = append(ordered, Module{Name: name, Data: data})
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// moduleName is the name the kernel knows a module file by, or "".
func moduleName(path string) string {
	name, _, ok := strings.Cut(filepath.Base(path), ".ko")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(name, "-", "_")
}

func moduleFiles(dir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if name := moduleName(path); err == nil && e.Type().IsRegular() && name != "" {
			files[name] = path
		}
		return err
	})
	return files, err
}

func builtinModules(list string) map[string]bool {
	names := make(map[string]bool)
	for path := range strings.Lines(list) {
		names[moduleName(path)] = true
	}
	return names
}

func readModule(ctx context.Context, file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		return command.Output(ctx, "", "xz", "-dc", file)
	}
	return nil, fmt.Errorf("%s: unknown compression", filepath.Base(file))
}

// dependencies reads the "depends" entry that modpost left in .modinfo.
func dependencies(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	return parseDepends(info), nil
}

func parseDepends(modinfo []byte) []string {
	for entry := range bytes.SplitSeq(modinfo, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			names := strings.Split(list, ",")
			for i := range names {
				names[i] = strings.ReplaceAll(names[i], "-", "_")
			}
			return names
		}
	}
	return nil
}
