package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vkmoe/vkmoe/internal/spirv"
)

// sumFile records, beside the kernels that somebody else's go generate compiled, what they were made from.
const sumFile = "kernels.sum"

// generateStems compiles dir/STEM.comp to dir/STEM.spv for each stem and writes dir/kernels.sum.
func generateStems(dir string, stems []string) error {
	c, err := findUserCompiler(dir)
	if err != nil {
		return err
	}
	if c.path, err = filepath.Abs(c.path); err != nil {
		return err
	}
	sums := "glslang " + c.version + "\n"
	for _, stem := range stems {
		v := variant{stem: stem}
		blob, err := c.compile(dir, v)
		if err != nil {
			return err
		}
		words, err := spirv.Words(blob)
		if err == nil {
			_, err = spirv.Parse(words)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", stem, err)
		}
		if err := os.WriteFile(filepath.Join(dir, stem+".spv"), blob, 0o644); err != nil {
			return err
		}
		line, err := sumLine(dir, stem)
		if err != nil {
			return err
		}
		sums += line
	}
	return os.WriteFile(filepath.Join(dir, sumFile), []byte(sums), 0o644)
}

// sumLine is a kernel's line in kernels.sum: its stem, the hash of its sources and that of its SPIR-V.
func sumLine(dir, stem string) (string, error) {
	source, err := sourceHash(dir, variant{stem: stem})
	if err != nil {
		return "", err
	}
	blob, err := os.ReadFile(filepath.Join(dir, stem+".spv"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %s %x\n", stem, source, sha256.Sum256(blob)), nil
}

// checkStems reports kernels of dir/kernels.sum whose sources or SPIR-V have changed since, and sources that it lacks.
// It needs no compiler.
func checkStems(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, sumFile))
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	_, lines, _ := strings.Cut(strings.ReplaceAll(string(text), "\r", ""), "\n")
	for _, want := range strings.SplitAfter(strings.TrimSuffix(lines, "\n"), "\n") {
		stem, _, _ := strings.Cut(want, " ")
		got, err := sumLine(dir, stem)
		if err != nil {
			return err
		}
		if strings.TrimSpace(got) != strings.TrimSpace(want) {
			return fmt.Errorf("%s changed: run go generate", filepath.Join(dir, stem+".comp"))
		}
		listed[stem] = true
	}
	sources, err := filepath.Glob(filepath.Join(dir, "*.comp"))
	if err != nil {
		return err
	}
	for _, s := range sources {
		if !listed[strings.TrimSuffix(filepath.Base(s), ".comp")] {
			return fmt.Errorf("%s is in no go:generate line", s)
		}
	}
	return nil
}

// findUserCompiler is findCompiler for any folder: .tools may be in it or in a folder above it, and failing that a
// glslangValidator that is on the PATH will do if it is new enough.
func findUserCompiler(dir string) (*compiler, error) {
	at, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for {
		c, err := findCompiler(at)
		if err == nil || os.Getenv("VKMOE_GLSLANG") != "" {
			return c, err
		}
		if at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	path, err := exec.LookPath("glslangValidator")
	if err != nil {
		return nil, errors.New("no glslang: put glslangValidator 16 or newer on the PATH, or name it in VKMOE_GLSLANG")
	}
	return newCompiler(path)
}
