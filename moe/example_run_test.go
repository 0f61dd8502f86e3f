package moe_test

import (
	"errors"
	"testing"

	"github.com/vkmoe/vkmoe/vk"
)

// TestExampleRuns executes Example, which has no fixed output and is otherwise only compiled.
func TestExampleRuns(t *testing.T) {
	dev, err := vk.Open(vk.Options{})
	if errors.Is(err, vk.ErrNoDevice) || errors.Is(err, vk.ErrNoLoader) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	Example()
}
