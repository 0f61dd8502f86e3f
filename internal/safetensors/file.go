package safetensors

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
)

// A File is an open safetensors file: its header in memory, its data on disk. Reading is safe from several goroutines.
type File struct {
	path   string
	data   io.ReaderAt
	start  int64 // byte of the file at which the data section starts
	header *header
	closer io.Closer // nil when the caller owns data
}

// Open opens a file and checks its header. It returns a *FormatError for a defective file and an *os.PathError where the
// file cannot be read. The caller closes the File.
func Open(path string) (*File, error) {
	disk, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	stat, err := disk.Stat()
	if err == nil && stat.IsDir() {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("is a directory")}
	}
	var f *File
	if err == nil {
		f, err = New(path, disk, stat.Size())
	}
	if err != nil {
		disk.Close()
		return nil, err
	}
	f.closer = disk
	return f, nil
}

// New reads a safetensors file of size bytes from r. path is used in errors only. r must stay usable as long as the File.
func New(path string, r io.ReaderAt, size int64) (*File, error) {
	fail := func(fault Fault, format string, args ...any) (*File, error) {
		return nil, &FormatError{fault, path, "", fmt.Sprintf(format, args...)}
	}
	const lengthBytes = 8
	if size < lengthBytes {
		return fail(Truncated, "%d bytes, a header length takes %d", size, lengthBytes)
	}
	var prefix [lengthBytes]byte
	if err := readFull(r, prefix[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", path, err)
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	switch {
	case length > MaxHeaderBytes:
		return fail(HeaderTooLarge, "%d bytes, the limit is %d", length, MaxHeaderBytes)
	case int64(length) > size-lengthBytes:
		return fail(HeaderTooLarge, "%d bytes, the file holds %d after the length", length, size-lengthBytes)
	}
	text := make([]byte, length)
	if err := readFull(r, text, lengthBytes); err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", path, err)
	}
	start := lengthBytes + int64(length)
	h, err := parseHeader(path, text, size-start)
	if err != nil {
		return nil, err
	}
	return &File{path: path, data: r, start: start, header: h}, nil
}

// readFull fills p from offset; a file that shrank meanwhile is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, offset int64) error {
	n, err := r.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close closes the file. It is idempotent.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	c := f.closer
	f.closer = nil
	return c.Close()
}

// Path is the path the file was opened by.
func (f *File) Path() string { return f.path }

// Metadata returns a copy of the header's free-form strings, nil when it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.header.metadata) }

// Tensors describes every tensor, in the order of the data. The caller must not change it.
func (f *File) Tensors() []*Info { return f.header.tensors }

// Names lists every tensor, in the order of the data.
func (f *File) Names() []string {
	var names []string
	for _, info := range f.header.tensors {
		names = append(names, info.Name)
	}
	return names
}

// Info describes one tensor. A tensor the file does not hold is a *MissingTensorError.
func (f *File) Info(name string) (*Info, error) {
	if info := f.header.byName[name]; info != nil {
		return info, nil
	}
	return nil, &MissingTensorError{f.path, name}
}

// Reader reads the raw little-endian bytes of one tensor.
func (f *File) Reader(name string) (*io.SectionReader, error) {
	info, err := f.Info(name)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(f.data, f.start+info.begin, info.Bytes()), nil
}
