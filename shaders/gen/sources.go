package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var includeLine = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include[ \t]+"([^"]+)"`)

// sourceFiles returns a shader's source and everything it includes, paths relative to root, in the order in which the
// compiler first meets them. An include is looked up beside the file that names it.
func sourceFiles(root, source string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		files = append(files, name)
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		for _, m := range includeLine.FindAllSubmatch(text, -1) {
			if err := visit(filepath.ToSlash(filepath.Join(filepath.Dir(name), string(m[1])))); err != nil {
				return fmt.Errorf("included by %s: %w", name, err)
			}
		}
		return nil
	}
	return files, visit(source)
}

// sourceHash is the SHA-256 over a variant's compiler arguments and the names and contents of its sources. Carriage
// returns are left out, so that a checkout with Windows line ends has the same hash.
func sourceHash(root string, v variant) (string, error) {
	files, err := sourceFiles(root, v.stem+".comp")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, strings.Join(v.arguments(), " "))
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "", err
		}
		text = []byte(strings.ReplaceAll(string(text), "\r", ""))
		fmt.Fprintf(h, "%s %d\n", name, len(text))
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
