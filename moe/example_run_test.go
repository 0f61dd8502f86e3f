package moe_test

import (
	"errors"
	"os"
	"testing"

	"github.com/vkmoe/vkmoe/vk"
)

// TestExampleRuns executes Example, which has no fixed output and is otherwise only compiled.
func TestExampleRuns(t *testing.T) {
	dev, err := vk.Open(vk.Options{})
	if (errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skip("needs a Vulkan device: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	Example()
}
