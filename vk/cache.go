package vk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// cacheMagic begins a cache file. The driver's own header is not enough: some drivers trust the rest of the data
// blindly, so the whole of it is covered by a checksum.
var cacheMagic = []byte("vkmoe pipelines 1\n")

// diskCache is the driver's pipeline cache, kept in a file between processes. A file that is missing, damaged or of
// another driver counts as empty; a folder that cannot be written costs compile time and nothing else.
type diskCache struct {
	dev    *Device
	handle vulkan.PipelineCache
	path   string
	dirty  atomic.Bool
}

// CacheDir is the folder for what is kept between processes, Options.CacheDir or vkmoe/ under os.UserCacheDir, whether it
// exists or not; "" with Options.NoCache and where the user has none.
func (d *Device) CacheDir() string {
	if d.opts.NoCache {
		return ""
	}
	if d.opts.CacheDir != "" {
		return d.opts.CacheDir
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "vkmoe")
}

// cachePath names the file of a device, or "" when nothing is to be kept. Driver and device are part of the name, so
// that a driver update starts afresh instead of fighting over one file.
func (d *Device) cachePath() string {
	dir := d.CacheDir()
	if dir == "" {
		return ""
	}
	a := d.adapter
	return filepath.Join(dir, fmt.Sprintf("pipelines-%x-%08x-%x.bin", a.DriverUUID, a.DriverVersion, a.CacheUUID))
}

func (c *diskCache) open(d *Device) error {
	c.dev, c.path = d, d.cachePath()
	data := c.load()
	info := vulkan.PipelineCacheCreateInfo{SType: vulkan.StructureTypePipelineCacheCreateInfo}
	if len(data) > 0 {
		// C memory: the struct that holds the pointer lives there too.
		p := cBytes(data)
		defer cFree(p)
		info.InitialDataSize, info.PInitialData = uint(len(data)), p
	}
	defer info.Free()
	var handle vulkan.PipelineCache // a plain variable: cgo lets no pointer into a struct of Go pointers pass
	err := check("vkCreatePipelineCache", vulkan.CreatePipelineCache(d.handle, &info, nil, &handle))
	c.handle = handle
	return d.note(err)
}

// load returns the driver's data from the file, or nil.
func (c *diskCache) load() []byte {
	if c.path == "" {
		return nil
	}
	file, err := os.ReadFile(c.path)
	if err != nil {
		return nil
	}
	return decodeCache(file, c.dev.adapter.CacheUUID)
}

// decodeCache returns the driver's data in a cache file, or nil when the file is not whole or not for this driver.
func decodeCache(file []byte, uuid [16]byte) []byte {
	rest, ok := bytes.CutPrefix(file, cacheMagic)
	if !ok || len(rest) < sha256.Size+32 {
		return nil
	}
	sum, data := rest[:sha256.Size], rest[sha256.Size:]
	if want := sha256.Sum256(data); !bytes.Equal(sum, want[:]) {
		return nil
	}
	// VkPipelineCacheHeaderVersionOne: length, version, vendor, device, pipelineCacheUUID.
	if binary.LittleEndian.Uint32(data) < 32 || !bytes.Equal(data[16:32], uuid[:]) {
		return nil
	}
	return data
}

func encodeCache(data []byte) []byte {
	sum := sha256.Sum256(data)
	return bytes.Join([][]byte{cacheMagic, sum[:], data}, nil)
}

// grew notes that there is something new to save.
func (c *diskCache) grew() { c.dirty.Store(true) }

// save writes the file anew, whole or not at all.
func (c *diskCache) save() {
	if c.path == "" || !c.dirty.Swap(false) || c.dev.lost.Load() {
		return
	}
	var n uint
	if vulkan.GetPipelineCacheData(c.dev.handle, c.handle, &n, nil) != vulkan.Success || n < 32 {
		return
	}
	data := make([]byte, n)
	if vulkan.GetPipelineCacheData(c.dev.handle, c.handle, &n, unsafe.Pointer(&data[0])) != vulkan.Success {
		return
	}
	if os.MkdirAll(filepath.Dir(c.path), 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), ".pipelines-*")
	if err != nil {
		return
	}
	_, err = f.Write(encodeCache(data[:n]))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), c.path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
}

func (c *diskCache) close() {
	if c.handle == nil {
		return
	}
	c.save()
	vulkan.DestroyPipelineCache(c.dev.handle, c.handle, nil)
}
