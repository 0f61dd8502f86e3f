package safetensors

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

// An Entry is one tensor to write.
type Entry struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar

	// Data writes the tensor's little-endian bytes, exactly as many as shape and dtype say.
	Data func(io.Writer) error
}

// Float32 is an F32 entry of the values given.
func Float32(name string, shape []int, values []float32) Entry {
	return Entry{name, F32, shape, func(w io.Writer) error { return binary.Write(w, binary.LittleEndian, values) }}
}

// Int32 is an I32 entry of the values given.
func Int32(name string, shape []int, values []int32) Entry {
	return Entry{name, I32, shape, func(w io.Writer) error { return binary.Write(w, binary.LittleEndian, values) }}
}

// Raw is an entry of bytes already in the file's form.
func Raw(name string, dtype DType, shape []int, data []byte) Entry {
	return Entry{name, dtype, shape, func(w io.Writer) error { _, err := w.Write(data); return err }}
}

// Write writes a safetensors file: the widest dtypes first and then by name, so that every tensor is aligned to its
// element size, with a header padded to 8 bytes. The same entries give the same bytes. An entry that could not be read
// back (unknown dtype, bad shape, bad or repeated name, wrong number of bytes) is a *FormatError with Path "(new file)".
func Write(w io.Writer, entries []Entry, metadata map[string]string) error {
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(b.DType.Bytes(), a.DType.Bytes()), cmp.Compare(a.Name, b.Name))
	})
	text, sizes, err := buildHeader(entries, metadata)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(w, pieceBytes)
	if err := binary.Write(buffered, binary.LittleEndian, uint64(len(text))); err != nil {
		return err
	}
	if _, err := buffered.Write(text); err != nil {
		return err
	}
	for i, e := range entries {
		counter := &countingWriter{w: buffered}
		if err := e.Data(counter); err != nil {
			return err
		}
		if counter.n != sizes[i] {
			return &FormatError{SizeMismatch, newFile, e.Name,
				fmt.Sprintf("shape %v of %s takes %d bytes, %d were written", e.Shape, e.DType, sizes[i], counter.n)}
		}
	}
	return buffered.Flush()
}

const newFile = "(new file)"

// buildHeader lays the entries out one after the other and checks the header with the reader's own rules.
func buildHeader(entries []Entry, metadata map[string]string) (text []byte, sizes []int64, err error) {
	type tensor struct {
		DType   DType    `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	members := make(map[string]any, len(entries)+1)
	if metadata != nil {
		members[metadataKey] = metadata
	}
	var at int64
	for _, e := range entries {
		if !utf8.ValidString(e.Name) {
			return nil, nil, &FormatError{HeaderSyntax, newFile, e.Name, "name is not UTF-8"}
		}
		if _, taken := members[e.Name]; taken || e.Name == metadataKey {
			return nil, nil, &FormatError{DuplicateName, newFile, e.Name, ""}
		}
		size := int64(e.DType.Bytes())
		for _, dim := range e.Shape {
			if dim > 0 && size > math.MaxInt64/2/int64(dim) {
				return nil, nil, &FormatError{SizeOverflow, newFile, e.Name, fmt.Sprintf("shape %v", e.Shape)}
			}
			size *= int64(dim)
		}
		members[e.Name] = tensor{e.DType, append([]int{}, e.Shape...), [2]int64{at, at + size}}
		sizes = append(sizes, size)
		at += size
	}
	if text, err = json.Marshal(members); err != nil {
		return nil, nil, err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	if len(text) > MaxHeaderBytes {
		return nil, nil, &FormatError{HeaderTooLarge, newFile, "", fmt.Sprintf("%d bytes", len(text))}
	}
	_, err = parseHeader(newFile, text, at)
	return text, sizes, err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// WriteFile writes a file under a temporary name and renames it, so that a reader never sees half of it.
func WriteFile(path string, entries []Entry, metadata map[string]string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = Write(tmp, entries, metadata)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chmod(tmp.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
