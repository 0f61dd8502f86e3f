package moe_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// TestExampleRuns executes Example, which has no fixed output and is otherwise only compiled.
func TestExampleRuns(t *testing.T) {
	dev, err := vk.Open(vk.Options{})
	gputest.Require(t, err)
	require.NoError(t, dev.Close())
	Example()
}
