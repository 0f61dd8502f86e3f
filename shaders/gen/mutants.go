package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A mutant is a kernel with a planted fault: a variant compiled after one text of its sources was replaced by another. The
// conformance suite is tried with them. The library's own sources and modules stay as they are.
type mutant struct {
	Name   string `json:"name"`
	Kernel string `json:"kernel"` // the variant's name
	File   string `json:"file"`   // the source or include file that is changed
	Old    string `json:"old"`    // must be there exactly once
	New    string `json:"new"`
}

// The files of a folder of mutants: what they are, and hashes of what they were made of.
const (
	mutantTable = "faults.json"
	mutantSums  = "faults.sum"
)

// readMutants reads a folder's table.
func readMutants(dir string) ([]mutant, error) {
	text, err := os.ReadFile(filepath.Join(dir, mutantTable))
	if err != nil {
		return nil, err
	}
	var list []mutant
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, mutantTable), err)
	}
	return list, nil
}

// variant is the variant that the mutant is one of.
func (m mutant) variant() (variant, error) {
	for _, v := range variants {
		if v.file() == m.Kernel {
			return v, nil
		}
	}
	return variant{}, fmt.Errorf("fault %s: there is no kernel %s", m.Name, m.Kernel)
}

// sum hashes the kernel's sources and the change.
func (m mutant) sum(root string) (string, error) {
	v, err := m.variant()
	if err != nil {
		return "", err
	}
	source, err := sourceHash(root, v)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join([]string{source, m.File, m.Old, m.New}, "\x00")))), nil
}

// generateMutants compiles the mutants of a folder to NAME.spv in it.
func generateMutants(root, dir string) error {
	c, err := findCompiler(filepath.Join(root, ".."))
	if err != nil {
		return err
	}
	if c.path, err = filepath.Abs(c.path); err != nil {
		return err
	}
	list, err := readMutants(dir)
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.spv"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	var sums strings.Builder
	for _, m := range list {
		blob, err := c.compileMutant(root, m)
		if err != nil {
			return fmt.Errorf("fault %s: %w", m.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, m.Name+".spv"), blob, 0o644); err != nil {
			return err
		}
		sum, err := m.sum(root)
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s %s\n", sum, m.Name)
	}
	return os.WriteFile(filepath.Join(dir, mutantSums), []byte(sums.String()), 0o644)
}

// compileMutant compiles a changed copy of the kernel's sources.
func (c *compiler) compileMutant(root string, m mutant) ([]byte, error) {
	v, err := m.variant()
	if err != nil {
		return nil, err
	}
	files, err := sourceFiles(root, v.stem+".comp")
	if err != nil {
		return nil, err
	}
	copied, err := os.MkdirTemp("", "vkmoe-mutant")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(copied)
	changed := false
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			return nil, err
		}
		if f == m.File {
			if n := strings.Count(string(text), m.Old); n != 1 {
				return nil, fmt.Errorf("%s has the text to replace %d times, not once: %q", f, n, m.Old)
			}
			text = []byte(strings.Replace(string(text), m.Old, m.New, 1))
			changed = true
		}
		to := filepath.Join(copied, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return nil, err
		}
	}
	if !changed {
		return nil, fmt.Errorf("%s is no source of %s", m.File, m.Kernel)
	}
	return c.compile(copied, v)
}
