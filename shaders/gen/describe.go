package main

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/kernel"
	"github.com/vkmoe/vkmoe/internal/spirv"
)

// kernelInfo is what kernels.go says of one variant, all of it reflected from the SPIR-V.
type kernelInfo struct {
	variant   variant
	hash      string // sourceHash
	push      []spirv.Field
	pushBytes uint32
	spec      []spirv.Constant
	localSize [3]int
	needs     []kernel.Feature
}

// maxPush is the push-constant size that every Vulkan device has.
const maxPush = 128

// maxShared is the work-group memory that a kernel may take at its default specialization; every Vulkan device has it.
const maxShared = 16384

// describe reflects a module and checks it against the rules of the house.
func describe(root string, v variant, blob []byte) (kernelInfo, error) {
	info := kernelInfo{variant: v}
	words, err := spirv.Words(blob)
	if err != nil {
		return info, err
	}
	m, err := spirv.Parse(words)
	if err != nil {
		return info, err
	}
	if info.hash, err = sourceHash(root, v); err != nil {
		return info, err
	}
	if info.push, info.pushBytes, err = m.Push(); err != nil {
		return info, err
	}
	if info.pushBytes > maxPush {
		return info, fmt.Errorf("%d bytes of push constants, the limit is %d", info.pushBytes, maxPush)
	}
	info.spec = m.Constants()
	if info.localSize, err = m.LocalSize(); err != nil {
		return info, err
	}
	if info.needs, err = m.Needs(); err != nil {
		return info, err
	}
	shared, err := m.SharedBytes(nil)
	if err != nil {
		return info, err
	}
	if shared > maxShared {
		return info, fmt.Errorf("%d bytes of shared memory by default, the limit is %d", shared, maxShared)
	}
	for _, f := range info.push {
		if goTypes[f.Type] == "" {
			return info, fmt.Errorf("push constant %s has type %s", f.Name, f.Type)
		}
	}
	for _, c := range info.spec {
		if goTypes[c.Type] == "" || c.Name == "" || c.Type == "u32x2" {
			return info, fmt.Errorf("specialization constant %d %q has type %s", c.ID, c.Name, c.Type)
		}
	}
	return info, nil
}

// sameInterface reports whether two variants of a stem can share one push struct and one spec struct.
func sameInterface(a, b kernelInfo) bool {
	return a.pushBytes == b.pushBytes && fmt.Sprint(a.push) == fmt.Sprint(b.push) &&
		fmt.Sprint(a.spec) == fmt.Sprint(b.spec)
}
