package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The file names of a checkpoint folder.
const (
	SingleFile = "model.safetensors"
	IndexFile  = "model.safetensors.index.json"
)

// A Checkpoint is the tensors of a folder, from one file or from several shards.
type Checkpoint struct {
	path  string
	files []*File
	where map[string]*File
}

// OpenFolder opens model.safetensors of a folder, or, where there is none, the shards that model.safetensors.index.json
// lists. A folder with neither is an error for which errors.Is(err, fs.ErrNotExist) holds. The caller closes the
// Checkpoint.
func OpenFolder(dir string) (*Checkpoint, error) {
	c := &Checkpoint{path: dir, where: map[string]*File{}}
	single, err := Open(filepath.Join(dir, SingleFile))
	switch {
	case err == nil:
		c.files = []*File{single}
		for _, info := range single.Tensors() {
			c.where[info.Name] = single
		}
		return c, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := c.openShards(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Checkpoint) openShards() error {
	path := filepath.Join(c.path, IndexFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("safetensors: %s holds neither %s nor %s: %w", c.path, SingleFile, IndexFile, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return &FormatError{BadIndex, path, "", err.Error()}
	}
	if len(index.WeightMap) == 0 {
		return &FormatError{BadIndex, path, "", "no weight_map"}
	}
	shards := map[string]*File{}
	for _, name := range sortedKeys(index.WeightMap) {
		file := index.WeightMap[name]
		// A shard lies beside its index; anything else would let a checkpoint read files elsewhere.
		if file != filepath.Base(file) || !filepath.IsLocal(file) || strings.ContainsAny(file, `/\`) {
			return &FormatError{BadIndex, path, name, fmt.Sprintf("%q is not a file name", file)}
		}
		shard := shards[file]
		if shard == nil {
			if shard, err = Open(filepath.Join(c.path, file)); err != nil {
				return err
			}
			shards[file] = shard
			c.files = append(c.files, shard)
		}
		if _, err := shard.Info(name); err != nil {
			return &FormatError{BadIndex, path, name, fmt.Sprintf("%s does not hold it", file)}
		}
		c.where[name] = shard
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Close closes every file. It is idempotent.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Path is the folder.
func (c *Checkpoint) Path() string { return c.path }

// Names lists every tensor, sorted.
func (c *Checkpoint) Names() []string { return sortedKeys(c.where) }

// Info describes one tensor. A tensor the folder does not hold is a *MissingTensorError.
func (c *Checkpoint) Info(name string) (*Info, error) {
	f := c.where[name]
	if f == nil {
		return nil, &MissingTensorError{c.path, name}
	}
	return f.Info(name)
}

// ReadFloat32 reads a tensor into dst; see File.ReadFloat32.
func (c *Checkpoint) ReadFloat32(name string, dst []float32) error {
	f := c.where[name]
	if f == nil {
		return &MissingTensorError{c.path, name}
	}
	return f.ReadFloat32(name, dst)
}

// ReadFloat32At reads a part of a tensor; see File.ReadFloat32At.
func (c *Checkpoint) ReadFloat32At(name string, dst []float32, first int) error {
	f := c.where[name]
	if f == nil {
		return &MissingTensorError{c.path, name}
	}
	return f.ReadFloat32At(name, dst, first)
}

// ReadBytesAt reads the bytes of a part of a tensor; see File.ReadBytesAt.
func (c *Checkpoint) ReadBytesAt(name string, p []byte, first int) error {
	f := c.where[name]
	if f == nil {
		return &MissingTensorError{c.path, name}
	}
	return f.ReadBytesAt(name, p, first)
}
