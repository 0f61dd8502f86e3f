package vk

/*
#include "ext.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// createLogical makes the logical device and gets its one queue, of family a.queueFamily. It enables exactly the
// features that are on in a.Caps, bufferDeviceAddress, and what baseRule lists. a must come from in.adapters().
//
// Errors: a.Unusable, *ResultError.
func (a *Adapter) createLogical(in *instance) (vulkan.Device, vulkan.Queue, error) {
	if a.Unusable != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoDevice, a.Unusable)
	}
	var mem cMemory
	defer mem.free()

	flags := a.enabledFlags()
	priority := (*C.float)(mem.alloc(C.sizeof_float))
	*priority = 1
	queues := (*C.vkmoe_adapter_queue_info)(mem.alloc(C.sizeof_vkmoe_adapter_queue_info))
	queues._type = 2
	queues.family = C.uint32_t(a.queueFamily)
	queues.count = 1
	queues.priorities = priority
	info := (*C.vkmoe_adapter_device_info)(mem.alloc(C.sizeof_vkmoe_adapter_device_info))
	info._type = 3
	info.next = featureChain(&mem, &flags)
	info.queue_count = 1
	info.queues = queues
	info.extensions, info.extension_count = mem.strings(a.enabledExtensions(&flags))

	var dev vulkan.Device
	result := vulkan.CreateDevice(a.handle, vulkan.NewDeviceCreateInfoRef(unsafe.Pointer(info)), nil, &dev)
	if err := check("vkCreateDevice", result); err != nil {
		return nil, nil, fmt.Errorf("vk: %s: %w", a.Name, err)
	}
	var queue vulkan.Queue
	vulkan.GetDeviceQueue(dev, a.queueFamily, 0, &queue)
	return dev, queue, nil
}

// featureChain builds the chain of feature structures that have a boolean set, with VkPhysicalDeviceFeatures2, which
// replaces pEnabledFeatures, always among them.
func featureChain(mem *cMemory, set *featureSet) unsafe.Pointer {
	var next unsafe.Pointer
	for i := blockCount - 1; i >= 0; i-- {
		if set[i] == 0 && i != blockCore {
			continue
		}
		b := (*C.vkmoe_adapter_features)(mem.alloc(C.sizeof_vkmoe_adapter_features))
		b._type, b.next = C.uint32_t(featureBlocks[i].structure), next
		for position := range b.flags {
			if set.has(featureFlag{i, position}) {
				b.flags[position] = 1
			}
		}
		next = unsafe.Pointer(b)
	}
	return next
}
