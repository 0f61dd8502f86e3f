package spirv

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDescriptors(t *testing.T) {
	m, err := Parse(sample())
	require.NoError(t, err)
	require.Empty(t, m.Descriptors(), "push constants and shared variables are none")

	const binding, descriptorSet = 33, 34
	a := newAssembler(20)
	a.op(opEntryPoint, join([]uint32{5, 1}, str("main"))...)
	a.op(opName, join([]uint32{9}, str("weights"))...)
	a.op(opDecorate, 9, binding, 0).op(opDecorate, 9, descriptorSet, 0).op(opDecorate, 4, binding, 1)
	m, err = Parse(a.words)
	require.NoError(t, err)
	require.Equal(t, []string{"%4", "weights"}, m.Descriptors())
}
