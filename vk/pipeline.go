package vk

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"

	"github.com/vkmoe/vkmoe/internal/kernel"
	"github.com/vkmoe/vkmoe/internal/spirv"
)

// A PipelineSpec names one pipeline: a kernel with its specialization values (nil for the defaults) and the subgroup
// size it requires (0 for the driver's choice).
type PipelineSpec struct {
	Kernel       *Kernel
	Spec         []uint32 // in the order of Kernel.Spec
	SubgroupSize uint32   // invocations
}

// pipelineKey is a PipelineSpec that can be compared.
type pipelineKey struct {
	kernel   *Kernel
	values   string
	subgroup uint32
}

// pipeline is one compiled pipeline or the reason why there is none.
type pipeline struct {
	ready  chan struct{} // closed when the rest is set
	handle vkHandle
	err    error
}

// pipelineSet compiles pipelines on first use and keeps them. All of them share one layout: push constants only.
type pipelineSet struct {
	dev    *Device
	layout vulkan.PipelineLayout
	cache  diskCache

	mu    sync.Mutex
	built map[pipelineKey]*pipeline
}

// pushBytes is the size of the push-constant range of the shared layout, the least that Vulkan guarantees.
const pushBytes = 128

func newPipelineSet(d *Device) (*pipelineSet, error) {
	s := &pipelineSet{dev: d, built: map[pipelineKey]*pipeline{}}
	var err error
	if s.layout, err = d.cmds.pipelineLayout(pushBytes); err != nil {
		return nil, err
	}
	return s, s.cache.open(d)
}

func (s *pipelineSet) layoutHandle() vkHandle { return handleOf(s.layout) }

// get returns a pipeline, compiling it when it is new. Callers asking for the same one wait for one compilation.
func (s *pipelineSet) get(spec PipelineSpec) (*pipeline, error) {
	values, err := specValues(spec)
	if err != nil {
		return nil, err
	}
	key := pipelineKey{spec.Kernel, wordString(values), spec.SubgroupSize}
	s.mu.Lock()
	p, found := s.built[key]
	if !found {
		p = &pipeline{ready: make(chan struct{})}
		s.built[key] = p
	}
	s.mu.Unlock()
	if found {
		<-p.ready
		return p, p.err
	}
	defer close(p.ready)
	if p.err = s.fits(spec, values); p.err == nil {
		p.handle, p.err = s.compile(spec, values, 0)
	}
	if p.err != nil {
		s.mu.Lock()
		delete(s.built, key) // the next call may fare better, as after a lack of memory
		s.mu.Unlock()
	}
	return p, p.err
}

func specValues(spec PipelineSpec) ([]uint32, error) {
	if spec.Spec == nil {
		values := make([]uint32, len(spec.Kernel.Spec))
		for i, c := range spec.Kernel.Spec {
			values[i] = c.Default
		}
		return values, nil
	}
	if len(spec.Spec) != len(spec.Kernel.Spec) {
		return nil, &ShapeError{Op: "Dispatch", Arg: "specialization values",
			Want: fmt.Sprintf("%d values for %s", len(spec.Kernel.Spec), spec.Kernel.Name()), Got: fmt.Sprint(len(spec.Spec))}
	}
	return spec.Spec, nil
}

// wordString makes a map key of words.
func wordString(words []uint32) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), 4*len(words)))
}

// fits refuses what the device could not run. Drivers do not all check this: NVIDIA's accepts a pipeline over its
// shared-memory limit and loses the device when it runs.
func (s *pipelineSet) fits(spec PipelineSpec, values []uint32) error {
	k, caps, name := spec.Kernel, &s.dev.adapter.Caps, s.dev.adapter.Name
	if f := caps.Missing(k.Needs...); f != "" {
		return &UnsupportedError{Feature: f, Need: k.Name(), Device: name}
	}
	if k.PushBytes > pushBytes {
		return &UnsupportedError{Need: fmt.Sprintf("%s: %d bytes of push constants (limit %d)", k.Name(), k.PushBytes, pushBytes), Device: name}
	}
	if n := spec.SubgroupSize; n != 0 {
		if !caps.Has(kernel.SubgroupSize) {
			return &UnsupportedError{Feature: kernel.SubgroupSize, Need: k.Name(), Device: name}
		}
		if n < caps.MinSubgroupSize || n > caps.MaxSubgroupSize || n&(n-1) != 0 {
			return &UnsupportedError{Feature: kernel.SubgroupSize, Device: name, Need: fmt.Sprintf("%s: subgroups of %d (the device has %d to %d)",
				k.Name(), n, caps.MinSubgroupSize, caps.MaxSubgroupSize)}
		}
	}
	total := uint64(1)
	for i, id := range k.LocalSize {
		size := uint64(-id)
		if id >= 0 {
			size = uint64(values[id])
		}
		if size == 0 || size > uint64(caps.MaxWorkgroupSize[i]) {
			return &UnsupportedError{Need: fmt.Sprintf("%s: a work-group of %d on axis %d (limit %d)", k.Name(), size, i, caps.MaxWorkgroupSize[i]), Device: name}
		}
		total *= size
	}
	if total > uint64(caps.MaxWorkgroupInvocations) {
		return &UnsupportedError{Need: fmt.Sprintf("%s: work-groups of %d (limit %d)", k.Name(), total, caps.MaxWorkgroupInvocations), Device: name}
	}
	shared, err := spirv.SharedBytes(k.SPIRV(), values)
	if err != nil {
		return fmt.Errorf("%s: %w", k.Name(), err)
	}
	if shared > uint64(caps.SharedMemoryBytes) {
		return &UnsupportedError{Need: fmt.Sprintf("%s: %d bytes of shared memory (limit %d)", k.Name(), shared, caps.SharedMemoryBytes), Device: name}
	}
	return nil
}

// compile makes a pipeline with the given VkPipelineCreateFlags.
func (s *pipelineSet) compile(spec PipelineSpec, values []uint32, flags uint32) (vkHandle, error) {
	if err := s.dev.usable(); err != nil {
		return 0, err
	}
	ids := make([]uint32, len(spec.Kernel.Spec))
	for i, c := range spec.Kernel.Spec {
		ids[i] = c.ID
	}
	handle, err := s.dev.cmds.computePipeline(s.cache.handle, s.layout, spec.Kernel.SPIRV(), ids, values, spec.SubgroupSize,
		spec.SubgroupSize != 0 && s.dev.adapter.Caps.FullSubgroups, flags)
	if err == nil {
		s.cache.grew()
	}
	return handle, s.dev.note(err)
}

func (s *pipelineSet) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.built)
}

func (s *pipelineSet) destroy() {
	s.cache.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.built {
		vulkan.DestroyPipeline(s.dev.handle, pipelineOf(p.handle), nil)
	}
	s.built = nil
	vulkan.DestroyPipelineLayout(s.dev.handle, s.layout, nil)
}

// Compile makes pipelines before they are needed, as many at once as there are processors. It returns every error
// joined; those that succeeded stay. Ending ctx stops it between pipelines.
func (d *Device) Compile(ctx context.Context, specs []PipelineSpec) error {
	if err := d.usable(); err != nil {
		return err
	}
	work := make(chan PipelineSpec)
	errs := make([]error, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for spec := range work {
				if _, err := d.pipes.get(spec); err != nil {
					errs[i] = errors.Join(errs[i], err)
				}
			}
		})
	}
	for _, spec := range specs {
		if ctx.Err() != nil {
			break
		}
		work <- spec
	}
	close(work)
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}
