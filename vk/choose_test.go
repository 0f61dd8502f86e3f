package vk

import (
	"bytes"
	"errors"
	"log"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// madeUp is an adapter with what the choice looks at.
func madeUp(index int, name, driver string, kind AdapterType, gib uint64) *Adapter {
	return &Adapter{Index: index, Name: name, DriverName: driver, Type: kind,
		heaps: []memoryHeap{{size: 64 << 30}, {size: gib << 30, deviceLocal: true}, {size: 1 << 28, deviceLocal: true}}}
}

func machine() []*Adapter {
	return []*Adapter{
		madeUp(0, "llvmpipe (LLVM 15.0.6, 256 bits)", "llvmpipe", Software, 32),
		madeUp(1, "Intel(R) UHD Graphics 770", "Intel open-source Mesa driver", Integrated, 16),
		madeUp(2, "NVIDIA GeForce RTX 3060", "NVIDIA", Discrete, 12),
		madeUp(3, "NVIDIA GeForce RTX 4090", "NVIDIA", Discrete, 24),
		madeUp(4, "Virtio-GPU Venus", "venus", Virtual, 8),
		madeUp(5, "Strange thing", "strange", Other, 80),
		madeUp(6, "NVIDIA GeForce RTX 4090", "NVIDIA", Discrete, 24),
	}
}

func TestChoiceByRank(t *testing.T) {
	t.Setenv(quietVariable, "1")
	list := machine()
	// The best is taken away again and again: this is the whole order.
	for _, want := range []int{3, 6, 2, 1, 4, 5, 0} {
		best, err := chooseAdapter(list, "")
		require.NoError(t, err)
		require.Equal(t, want, best.Index)
		best.Unusable = errors.New("taken")
	}
}

func TestChoiceByWish(t *testing.T) {
	for want, index := range map[string]int{
		"0": 0, "4": 4, " 4 ": 4,
		"llvm": 0, "uhd graphics": 1, "NVIDIA": 3, "3060": 2, "4090": 3, "venus": 4, "Mesa": 1,
		"geforce": 3, // several match: the best of them
	} {
		a, err := chooseAdapter(machine(), want)
		require.NoError(t, err, want)
		require.Equal(t, index, a.Index, want)
	}
}

func TestChoiceOfNothing(t *testing.T) {
	for _, want := range []string{"7", "-1", "radeon", "99999999999999999999"} {
		_, err := chooseAdapter(machine(), want)
		var choice *DeviceChoiceError
		require.ErrorAs(t, err, &choice, want)
		require.Equal(t, want, choice.Want)
		require.Len(t, choice.Have, 7)
		require.NoError(t, choice.Reason)
		require.ErrorContains(t, err, "Strange thing")
		require.ErrorContains(t, err, want)
	}
}

func TestChoiceOfUnusable(t *testing.T) {
	list := machine()
	old := &UnsupportedError{Need: "bufferDeviceAddress", Device: list[2].Name}
	list[2].Unusable = old
	for _, want := range []string{"2", "3060"} {
		_, err := chooseAdapter(list, want)
		var choice *DeviceChoiceError
		require.ErrorAs(t, err, &choice)
		var reason *UnsupportedError
		require.ErrorAs(t, err, &reason)
		require.Equal(t, old, reason)
		require.ErrorContains(t, err, "cannot be used")
	}
	a, err := chooseAdapter(list, "nvidia")
	require.NoError(t, err, "others of that name are usable")
	require.Equal(t, 3, a.Index)
}

func TestChoiceWithoutUsable(t *testing.T) {
	list := machine()[1:3]
	for _, a := range list {
		a.Unusable = &UnsupportedError{Need: "bufferDeviceAddress", Device: a.Name}
	}
	_, err := chooseAdapter(list, "")
	require.ErrorIs(t, err, ErrNoDevice)
	for _, text := range []string{"UHD Graphics 770", "RTX 3060", "bufferDeviceAddress", "install"} {
		require.ErrorContains(t, err, text)
	}
	_, err = chooseAdapter(nil, "")
	require.ErrorIs(t, err, ErrNoDevice)
	_, err = chooseAdapter(nil, "0")
	var choice *DeviceChoiceError
	require.ErrorAs(t, err, &choice)
}

func TestSoftwareNotice(t *testing.T) {
	var out bytes.Buffer
	log.SetOutput(&out)
	defer log.SetOutput(os.Stderr)
	software := machine()[:1]
	choose := func(list []*Adapter, want string) string {
		out.Reset()
		softwareNotice = sync.Once{}
		for range 2 {
			_, err := chooseAdapter(list, want)
			require.NoError(t, err)
		}
		return out.String()
	}
	t.Setenv(quietVariable, "")
	text := choose(software, "")
	require.Contains(t, text, "llvmpipe")
	require.Equal(t, 1, bytes.Count([]byte(text), []byte("\n")), "once: %q", text)
	require.Empty(t, choose(software, "llvmpipe"), "whoever asks for it knows")
	require.Empty(t, choose(machine(), ""))
	t.Setenv(quietVariable, "1")
	require.Empty(t, choose(software, ""))
}

// Choose names the device that Open takes.
func TestChoose(t *testing.T) {
	a, err := Choose("")
	skipWithoutVulkan(t, err)
	require.NoError(t, err)
	d, err := Open(Options{NoCache: true})
	require.NoError(t, err)
	require.True(t, a.Same(d.Adapter()))
	require.NoError(t, d.Close())
	var choice *DeviceChoiceError
	_, err = Choose("no such device")
	require.ErrorAs(t, err, &choice)
}
