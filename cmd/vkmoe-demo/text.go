package main

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"os"
	"strings"
)

// opticks is Isaac Newton's Opticks (fourth edition, London 1730) without the marks of italics of its transcription: the text
// that Go's own tests carry, which is in the public domain.
//
//go:embed opticks.txt.gz
var opticks []byte

// firstChapter is what the first chapter of opticks begins with.
const firstChapter = "My Design in this Book"

// mostText bounds the text that is read, in bytes; of a longer file the beginning is taken.
const mostText = 64 << 20

// loadText reads a text file, or takes the built-in text when path is "". Line ends become "\n".
func loadText(path string) (text []byte, name string, err error) {
	if path == "" {
		r, err := gzip.NewReader(bytes.NewReader(opticks))
		if err != nil {
			return nil, "", fmt.Errorf("the built-in text is damaged: %w", err)
		}
		text, err := io.ReadAll(r)
		return text, "Newton, Opticks (1730)", err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read the text: %w", err)
	}
	defer f.Close()
	if text, err = io.ReadAll(io.LimitReader(f, mostText)); err != nil {
		return nil, "", fmt.Errorf("cannot read the text: %w", err)
	}
	clean := strings.NewReplacer("\ufeff", "", "\r\n", "\n", "\r", "\n").Replace(string(text))
	if clean == "" {
		return nil, "", fmt.Errorf("cannot read the text: %s is empty", path)
	}
	return []byte(clean), path, nil
}
