package vk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	vulkan "github.com/vulkan-go/vulkan"
)

func TestParseValidation(t *testing.T) {
	for value, want := range map[string]validationMode{
		"": validationOff, "0": validationOff, "off": validationOff, "false": validationOff,
		"1": validationSync, " on ": validationSync, "TRUE": validationSync, "sync": validationSync,
		"gpu": validationGPU, "GPU": validationGPU,
	} {
		mode, err := parseValidation(value)
		require.NoError(t, err, value)
		require.Equal(t, want, mode, value)
	}
	_, err := parseValidation("2")
	require.EqualError(t, err, "vk: VKMOE_VALIDATION=2: want 1, gpu or 0")
	t.Setenv(validationVariable, "yes please")
	_, err = Adapters()
	var setting *SettingError
	require.ErrorAs(t, err, &setting)
	require.Equal(t, "yes please", setting.Value)
}

func TestValidationWanted(t *testing.T) {
	for _, c := range []struct {
		variable string
		program  bool
		want     validationMode
	}{
		{"", false, validationOff}, {"", true, validationSync}, {"0", true, validationSync},
		{"1", false, validationSync}, {"gpu", true, validationGPU},
	} {
		t.Setenv(validationVariable, c.variable)
		mode, err := validationWanted(c.program)
		require.NoError(t, err)
		require.Equal(t, c.want, mode, "%+v", c)
	}
}

func TestMessageLog(t *testing.T) {
	var log messageLog
	require.Zero(t, log.mark())
	require.Empty(t, log.since(0))
	message := func(i int) ValidationMessage { return ValidationMessage{Severity: "error", ID: fmt.Sprint(i)} }
	for i := range 3 {
		log.add(message(i))
	}
	mark := log.mark()
	require.EqualValues(t, 3, mark)
	require.Empty(t, log.since(mark))
	require.Empty(t, log.since(mark+5))
	log.add(message(3))
	require.Equal(t, []ValidationMessage{message(3)}, log.since(mark))

	for i := 4; i < logCapacity+10; i++ {
		log.add(message(i))
	}
	require.EqualValues(t, logCapacity+10, log.mark())
	kept := log.since(0)
	require.Len(t, kept, logCapacity)
	require.Equal(t, message(10), kept[0])
	require.Equal(t, []ValidationMessage{message(logCapacity + 9)}, log.since(logCapacity+9))
	require.Len(t, log.since(3), logCapacity, "older messages are gone, newer ones are not repeated")
}

func TestMessageLogFromManyGoroutines(t *testing.T) {
	var log messageLog
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 50 {
				log.add(ValidationMessage{})
				log.since(log.mark())
			}
		}()
	}
	group.Wait()
	require.EqualValues(t, 400, log.mark())
}

func TestValidationErrorHoldsErrorsOnly(t *testing.T) {
	in := &instance{messages: &messageLog{}}
	in.messages.add(ValidationMessage{Severity: "error", ID: "before"})
	mark := in.mark()
	require.NoError(t, in.validationError(mark))
	in.messages.add(ValidationMessage{Severity: "warning", ID: "W"})
	require.NoError(t, in.validationError(mark))
	in.messages.add(ValidationMessage{Severity: "error", ID: "E", Text: "one"})
	var invalid *ValidationError
	require.ErrorAs(t, in.validationError(mark), &invalid)
	require.Equal(t, "vk: validation: error: E: one", invalid.Error())
	in.messages.add(ValidationMessage{Severity: "error", ID: "F", Text: "two"})
	require.EqualError(t, in.validationError(mark), "vk: validation: 2 messages, the first: error: E: one")

	without := &instance{}
	require.Zero(t, without.mark())
	require.NoError(t, without.validationError(0))
}

func TestMissingLayer(t *testing.T) {
	if !inChild(t, "VKMOE_VALIDATION=1", "VK_LAYER_PATH=/nonexistent", "VK_ADD_LAYER_PATH=", "VK_INSTANCE_LAYERS=") {
		return
	}
	_, err := Adapters()
	skipWithoutVulkan(t, err)
	var missing *MissingLayerError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, validationLayer, missing.Layer)
	require.ErrorContains(t, err, "vulkan-validationlayers")
}

func TestValidationFindsErrors(t *testing.T) {
	for _, mode := range []string{"1", "gpu"} {
		t.Run(mode, func(t *testing.T) {
			if inChild(t, "VKMOE_VALIDATION="+mode) {
				findErrors(t)
			}
		})
	}
}

// findErrors makes errors on every device and expects the layer to report them and nothing else.
func findErrors(t *testing.T) {
	in, err := acquireInstance(false)
	var missing *MissingLayerError
	if errors.As(err, &missing) && os.Getenv("VKMOE_REQUIRE_DRIVERS") != "1" {
		t.Skipf("needs the validation layer: %v", err)
	}
	skipWithoutVulkan(t, err)
	require.NoError(t, err)
	adapters, err := in.adapters()
	skipWithoutVulkan(t, err)
	for _, a := range adapters {
		if a.Unusable != nil {
			continue
		}
		dev, _, err := a.createLogical(in)
		require.NoError(t, err)
		require.Empty(t, ValidationMessages(), "making a device is no error")

		mark := in.mark()
		provokeCore(dev)
		var invalid *ValidationError
		require.ErrorAs(t, in.validationError(mark), &invalid)
		require.Contains(t, invalid.Messages[0].ID, "VUID-VkBufferCreateInfo-size")

		mark = in.mark()
		provokeHazard(t, a, dev)
		require.ErrorAs(t, in.validationError(mark), &invalid)
		require.Contains(t, strings.ReplaceAll(invalid.Error(), "_", "-"), "SYNC-HAZARD-WRITE-AFTER-WRITE")
		require.NotEmpty(t, invalid.Messages[0].Objects)
		vulkan.DestroyDevice(dev, nil)
		for _, m := range ValidationMessages() {
			require.Equal(t, "error", m.Severity, "%v", m)
		}
		return
	}
	skipWithoutVulkan(t, ErrNoDevice)
	t.Fatal("no device is usable")
}

// provokeCore asks for a buffer of no bytes.
func provokeCore(dev vulkan.Device) {
	var empty vulkan.Buffer
	info := vulkan.BufferCreateInfo{
		SType: vulkan.StructureTypeBufferCreateInfo, Usage: vulkan.BufferUsageFlags(vulkan.BufferUsageTransferDstBit),
	}
	defer info.Free()
	if vulkan.CreateBuffer(dev, &info, nil, &empty) == vulkan.Success {
		vulkan.DestroyBuffer(dev, empty, nil)
	}
}

// provokeHazard records two fills of the same bytes with no barrier between.
func provokeHazard(t *testing.T, a *Adapter, dev vulkan.Device) {
	t.Helper()
	info := vulkan.BufferCreateInfo{
		SType: vulkan.StructureTypeBufferCreateInfo, Size: 256,
		Usage: vulkan.BufferUsageFlags(vulkan.BufferUsageTransferDstBit),
	}
	defer info.Free()
	var buffer vulkan.Buffer
	require.NoError(t, check("vkCreateBuffer", vulkan.CreateBuffer(dev, &info, nil, &buffer)))
	defer vulkan.DestroyBuffer(dev, buffer, nil)
	var needs vulkan.MemoryRequirements
	vulkan.GetBufferMemoryRequirements(dev, buffer, &needs)
	needs.Deref()
	defer needs.Free()
	require.NotZero(t, needs.MemoryTypeBits)
	which := uint32(0)
	for needs.MemoryTypeBits>>which&1 == 0 {
		which++
	}
	size := vulkan.MemoryAllocateInfo{
		SType: vulkan.StructureTypeMemoryAllocateInfo, AllocationSize: needs.Size, MemoryTypeIndex: which,
	}
	defer size.Free()
	var memory vulkan.DeviceMemory
	require.NoError(t, check("vkAllocateMemory", vulkan.AllocateMemory(dev, &size, nil, &memory)))
	defer vulkan.FreeMemory(dev, memory, nil)
	require.NoError(t, check("vkBindBufferMemory", vulkan.BindBufferMemory(dev, buffer, memory, 0)))

	poolInfo := vulkan.CommandPoolCreateInfo{
		SType: vulkan.StructureTypeCommandPoolCreateInfo, QueueFamilyIndex: a.queueFamily,
	}
	defer poolInfo.Free()
	var pool vulkan.CommandPool
	require.NoError(t, check("vkCreateCommandPool", vulkan.CreateCommandPool(dev, &poolInfo, nil, &pool)))
	defer vulkan.DestroyCommandPool(dev, pool, nil)
	bufferInfo := vulkan.CommandBufferAllocateInfo{
		SType: vulkan.StructureTypeCommandBufferAllocateInfo, CommandPool: pool, CommandBufferCount: 1,
	}
	defer bufferInfo.Free()
	commands := make([]vulkan.CommandBuffer, 1)
	require.NoError(t, check("vkAllocateCommandBuffers", vulkan.AllocateCommandBuffers(dev, &bufferInfo, commands)))
	begin := vulkan.CommandBufferBeginInfo{SType: vulkan.StructureTypeCommandBufferBeginInfo}
	defer begin.Free()
	require.NoError(t, check("vkBeginCommandBuffer", vulkan.BeginCommandBuffer(commands[0], &begin)))
	vulkan.CmdFillBuffer(commands[0], buffer, 0, 256, 1)
	vulkan.CmdFillBuffer(commands[0], buffer, 0, 256, 2)
	require.NoError(t, check("vkEndCommandBuffer", vulkan.EndCommandBuffer(commands[0])))
}
