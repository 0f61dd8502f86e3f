package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const mutants = "../../tests/conform/faults"

// TestMutantsAreFresh compares the suite's faulty kernels with the sources that they were made of.
func TestMutantsAreFresh(t *testing.T) {
	list, err := readMutants(mutants)
	require.NoError(t, err)
	require.NotEmpty(t, list)
	var sums strings.Builder
	files := map[string]bool{}
	for _, m := range list {
		sum, err := m.sum(root)
		require.NoError(t, err)
		fmt.Fprintf(&sums, "%s %s\n", sum, m.Name)
		files[filepath.Join(mutants, m.Name+".spv")] = true
		text, err := os.ReadFile(filepath.Join(root, m.File))
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), m.Old), "%s: the text that it replaces in %s", m.Name, m.File)
	}
	committed, err := os.ReadFile(filepath.Join(mutants, mutantSums))
	require.NoError(t, err)
	require.Equal(t, sums.String(), string(committed), "a kernel or a fault changed: run go generate ./shaders")
	found, err := filepath.Glob(filepath.Join(mutants, "*.spv"))
	require.NoError(t, err)
	require.Len(t, found, len(files))
	for _, f := range found {
		require.True(t, files[f], "%s is no mutant's", f)
	}
}
