// Command gen compiles the shaders of the parent folder to spv/ and writes kernels.go and a STEM.go beside each STEM.comp: run it by
// go generate.
//
// With arguments it compiles somebody else's kernels, for vk.NewKernel: each STEM.comp of the working folder to STEM.spv
// beside it, with hashes of sources and results in kernels.sum. With -check it compares a folder with its kernels.sum, for
// which it needs no compiler.
//
//	//go:generate go run github.com/vkmoe/vkmoe/shaders/gen STEM…
//	go run github.com/vkmoe/vkmoe/shaders/gen -check FOLDER…
//
// With -mutants FOLDER it compiles the faulty kernels that the conformance suite is tried with, which are described in that
// folder's faults.json.
//
// It needs glslang 16 or newer: the glslangValidator that the environment variable VKMOE_GLSLANG names, or the one that
// scripts/glslang.sh puts into .tools/.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	// go generate runs in the folder of the file with the directive: shaders, or that of the stems.
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shaders/gen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return generate(".")
	case args[0] == "-mutants" && len(args) == 2:
		return generateMutants(".", args[1])
	case args[0] != "-check":
		return generateStems(".", args)
	}
	for _, dir := range args[1:] {
		if err := checkStems(dir); err != nil {
			return err
		}
	}
	return nil
}

// generate writes root/spv, root/kernels.go and the stems' files, and removes what it wrote of kernels that are no more.
func generate(root string) error {
	c, err := findCompiler(filepath.Join(root, ".."))
	if err != nil {
		return err
	}
	if c.path, err = filepath.Abs(c.path); err != nil {
		return err
	}
	spv := filepath.Join(root, "spv")
	if err := os.MkdirAll(spv, 0o755); err != nil {
		return err
	}
	var list []kernelInfo
	keep := map[string]bool{}
	for _, v := range variants {
		blob, err := c.compile(root, v)
		if err != nil {
			return err
		}
		info, err := describe(root, v, blob)
		if err != nil {
			return fmt.Errorf("%s: %w", v.file(), err)
		}
		name := filepath.Join(spv, v.file()+".spv")
		if err := os.WriteFile(name, blob, 0o644); err != nil {
			return err
		}
		keep[name] = true
		list = append(list, info)
	}
	files, err := render(c.version, list)
	if err != nil {
		return err
	}
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
		keep[name] = true
	}
	return removeStale(root, keep)
}

// removeStale removes the modules and generated files that are not to be kept.
func removeStale(root string, keep map[string]bool) error {
	old, err := filepath.Glob(filepath.Join(root, "spv", "*.spv"))
	if err != nil {
		return err
	}
	sources, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range sources {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(text, []byte(generatedBy)) {
			old = append(old, name)
		}
	}
	for _, name := range old {
		if !keep[name] {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
