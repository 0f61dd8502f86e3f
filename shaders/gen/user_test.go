package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/spirv"
)

// TestExampleKernelsAreFresh compares the SPIR-V and the sources of every example with its kernels.sum.
func TestExampleKernelsAreFresh(t *testing.T) {
	folders := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(root, "..", "examples"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, ".comp") || strings.HasSuffix(path, ".spv")) {
			folders[filepath.Dir(path)] = true
		}
		return err
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(folders), 3)
	for dir := range folders {
		require.NoError(t, checkStems(dir))
		blobs, err := filepath.Glob(filepath.Join(dir, "*.spv"))
		require.NoError(t, err)
		sources, err := filepath.Glob(filepath.Join(dir, "*.comp"))
		require.NoError(t, err)
		require.Len(t, blobs, len(sources), "%s: one module per source", dir)
	}
}

func TestCheckStemsSeesEveryChange(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("k.comp", "#include \"common.glsl\"\nvoid main() {}\n")
	write("common.glsl", "const uint A = 1;\n")
	write("k.spv", "words")
	line, err := sumLine(dir, "k")
	require.NoError(t, err)
	require.ErrorIs(t, checkStems(dir), os.ErrNotExist, "without kernels.sum")
	write(sumFile, "glslang 16.0.0\n"+line)
	require.NoError(t, checkStems(dir))
	write(sumFile, strings.ReplaceAll("glslang 16.0.0\n"+line, "\n", "\r\n"))
	require.NoError(t, checkStems(dir), "line ends do not count")

	write("common.glsl", "const uint A = 2;\n")
	require.ErrorContains(t, checkStems(dir), "go generate")
	write("common.glsl", "const uint A = 1;\n")
	write("k.spv", "other")
	require.ErrorContains(t, checkStems(dir), "go generate")
	write("k.spv", "words")
	write("new.comp", "void main() {}\n")
	require.ErrorContains(t, checkStems(dir), "new.comp")
	require.NoError(t, run([]string{"-check", filepath.Join(root, "..", "examples", "train")}))
	require.Error(t, run([]string{"-check", dir}))
}

func TestGenerateStems(t *testing.T) {
	c, err := findUserCompiler(root)
	if err != nil && os.Getenv("VKMOE_REQUIRE_GLSLANG") != "1" {
		t.Skip("needs a compiler: ", err)
	}
	require.NoError(t, err)
	path, err := filepath.Abs(c.path)
	require.NoError(t, err)
	t.Setenv("VKMOE_GLSLANG", path)
	dir := t.TempDir()
	source := "#version 460\nlayout(local_size_x = 3) in;\nvoid main() {}\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "k.comp"), []byte(source), 0o644))
	require.NoError(t, generateStems(dir, []string{"k"}))
	require.NoError(t, checkStems(dir))
	blob, err := os.ReadFile(filepath.Join(dir, "k.spv"))
	require.NoError(t, err)
	words, err := spirv.Words(blob)
	require.NoError(t, err)
	m, err := spirv.Parse(words)
	require.NoError(t, err)
	size, err := m.LocalSize()
	require.NoError(t, err)
	require.Equal(t, [3]int{-3, -1, -1}, size)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "k.comp"), []byte("void main( {}\n"), 0o644))
	require.ErrorContains(t, generateStems(dir, []string{"k"}), "k")
	require.Error(t, generateStems(dir, []string{"absent"}))
}
