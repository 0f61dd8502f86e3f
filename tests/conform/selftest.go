package conform

import (
	"os"
	"time"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// selfTests are cases that misbehave on purpose, to prove that a run goes on. They are chosen by name only.
func selfTests(add func(Case)) {
	double := func(k *Kit) (x, y *vk.Tensor) {
		x, y = k.F32("x", []float32{1, 2, 3}, 3), k.Output("y", vk.F32, 3)
		k.Rec.Copy(y, x)
		return x, y
	}
	add(Case{Name: "selftest.pass", Record: func(k *Kit) func() {
		_, y := double(k)
		return func() { k.Close("y", y, []float64{1, 2, 3}, nil) }
	}})
	add(Case{Name: "selftest.fail", Record: func(k *Kit) func() {
		_, y := double(k)
		return func() { k.Close("y", y, []float64{1, 2, 4}, []float64{0.1}) }
	}})
	add(Case{Name: "selftest.unwritten", Record: func(k *Kit) func() {
		k.Output("y", vk.F32, 3)
		return nil
	}})
	add(Case{Name: "selftest.flaky", Record: func(k *Kit) func() {
		_, y := double(k)
		return func() {
			if k.attempt == 0 {
				k.Close("y", y, []float64{1, 2, 4}, nil)
			}
		}
	}})
	add(Case{Name: "selftest.unsupported", Record: func(k *Kit) func() {
		k.must(&vk.UnsupportedError{Feature: "antigravity", Need: "this case", Device: k.Dev.Adapter().Name})
		return nil
	}})
	add(Case{Name: "selftest.crash", Record: func(*Kit) func() {
		go panic("selftest.crash: about to end the process") // in a goroutine of its own, where nothing recovers it
		select {}
	}})
	add(Case{Name: "selftest.exit", Record: func(*Kit) func() {
		os.Exit(0) // a driver that ends the process without a word
		return nil
	}})
	add(Case{Name: "selftest.hang", Limit: time.Second, Record: func(*Kit) func() {
		time.Sleep(24 * time.Hour)
		return nil
	}})
	add(Case{Name: "selftest.lost", Record: func(k *Kit) func() {
		k.must(&vk.ResultError{Op: "vkQueueSubmit", Code: -4})
		return nil
	}})
	// A kernel that reads where nothing is: CPU drivers crash and GPUs lose the device or return zeros.
	add(Case{Name: "selftest.wild", Record: func(k *Kit) func() {
		y := k.Output("y", vk.F32, 256)
		k.Rec.Dispatch(vk.Dispatch{Kernel: shaders.ConvertF16F32, Spec: shaders.ConvertSpec{Threads: 64}.Values(), Linear: 1,
			Push: shaders.ConvertPush{Src: 1 << 12, Dst: y.Address(), Count: 256}.Bytes(), Writes: []*vk.Tensor{y}})
		return func() { k.Fail(CheckError, "y", "a read of address 4096 went unnoticed") }
	}})
}
