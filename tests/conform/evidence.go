package conform

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/vk"
)

// keep writes a case's evidence:
//
//	result.json           what was found, with the seed
//	tensors.safetensors   inputs and outputs as they are on the device, and want/NAME, the oracle's values
//	pipelines.json        kernels in the order of first use with specialization constants
//	NAME.spv              their SPIR-V
//	validation.txt        messages of the validation layer, where there are any
func (e *execution) keep(r *Result) error {
	dir := filepath.Join(e.o.Evidence, e.c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r.Evidence = dir
	if len(e.kits) > 0 {
		k := e.kits[len(e.kits)-1]
		if err := k.keepTensors(filepath.Join(dir, "tensors.safetensors")); err != nil && r.Status != Lost {
			return err
		}
		if err := keepPipelines(dir, k.Rec.Pipelines()); err != nil {
			return err
		}
	}
	var text strings.Builder
	for _, m := range vk.ValidationMessages() {
		fmt.Fprintln(&text, m)
	}
	if text.Len() > 0 {
		if err := os.WriteFile(filepath.Join(dir, "validation.txt"), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(struct {
		Seed uint64 `json:"seed"`
		*Result
	}{e.o.Seed, r}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "result.json"), data, 0o644)
}

var storageNames = map[vk.DType]safetensors.DType{vk.F32: safetensors.F32, vk.F16: safetensors.F16, vk.BF16: safetensors.BF16,
	vk.I32: safetensors.I32, vk.U32: safetensors.U32}

func (k *Kit) keepTensors(path string) error {
	var entries []safetensors.Entry
	seen := map[string]bool{}
	for _, b := range k.bands {
		data, err := vk.Download[byte](k.Ctx, b.view)
		if err != nil {
			return err
		}
		if !seen[b.name] {
			entries = append(entries, safetensors.Raw(b.name, storageNames[b.view.DType()], b.view.Shape(), data))
		}
		seen[b.name] = true
	}
	for name, want := range k.found.wants {
		data := make([]byte, 0, 8*len(want))
		data, err := binary.Append(data, binary.LittleEndian, want)
		if err != nil {
			return err
		}
		entries = append(entries, safetensors.Raw("want/"+name, safetensors.F64, []int{len(want)}, data))
	}
	return safetensors.WriteFile(path, entries, nil)
}

// A Pipeline is one pipeline of a case.
type Pipeline struct {
	Kernel       string            `json:"kernel"`
	SPIRV        string            `json:"spirv"` // file name
	Constants    map[string]uint32 `json:"constants"`
	SubgroupSize uint32            `json:"subgroup_size,omitempty"`
}

func keepPipelines(dir string, specs []vk.PipelineSpec) error {
	var list []Pipeline
	for _, s := range specs {
		p := Pipeline{Kernel: s.Kernel.Name(), SPIRV: s.Kernel.Name() + ".spv", Constants: map[string]uint32{}, SubgroupSize: s.SubgroupSize}
		for i, c := range s.Kernel.Spec {
			p.Constants[c.Name] = c.Default
			if s.Spec != nil {
				p.Constants[c.Name] = s.Spec[i]
			}
		}
		list = append(list, p)
		var blob []byte
		for _, w := range s.Kernel.SPIRV() {
			blob = binary.LittleEndian.AppendUint32(blob, w)
		}
		if err := os.WriteFile(filepath.Join(dir, p.SPIRV), blob, 0o644); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "pipelines.json"), data, 0o644)
}
