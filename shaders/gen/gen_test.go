package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/kernel"
	"github.com/vkmoe/vkmoe/internal/spirv"
	"github.com/vkmoe/vkmoe/shaders"
)

const root = ".." // the package shaders

// TestKernelsAreFresh compares kernels.go with the sources on disk: it fails after a change of a source, an include, the
// compiler's options or the variant table without go generate.
func TestKernelsAreFresh(t *testing.T) {
	require.Len(t, shaders.Sources, len(variants))
	require.Len(t, shaders.All, len(variants))
	for i, v := range variants {
		hash, err := sourceHash(root, v)
		require.NoError(t, err)
		require.Equal(t, hash, shaders.Sources[v.file()], "%s changed: run go generate ./...", v.file())
		require.Equal(t, v.file(), shaders.All[i].Name())
	}
}

// TestKernelsMatchTheirSPIRV reflects the embedded modules again.
func TestKernelsMatchTheirSPIRV(t *testing.T) {
	for i, v := range variants {
		k := shaders.All[i]
		blob, err := os.ReadFile(filepath.Join(root, "spv", v.file()+".spv"))
		require.NoError(t, err)
		words, err := spirv.Words(blob)
		require.NoError(t, err)
		require.Equal(t, words, k.SPIRV(), "%s: embedded words", k.Name())
		require.EqualValues(t, spirv.Magic, k.SPIRV()[0])
		m, err := spirv.Parse(words)
		require.NoError(t, err)
		require.LessOrEqual(t, 10*m.Version[0]+m.Version[1], 15, "%s: Vulkan 1.2 has SPIR-V 1.5", k.Name())

		info, err := describe(root, v, blob)
		require.NoError(t, err)
		require.Equal(t, info.pushBytes, k.PushBytes)
		require.Equal(t, info.localSize, k.LocalSize)
		require.Equal(t, info.needs, k.Needs)
		require.Len(t, k.Push, len(info.push))
		for j, f := range info.push {
			require.Equal(t, f.Field, k.Push[j])
		}
		require.Len(t, k.Spec, len(info.spec))
		for j, c := range info.spec {
			require.Equal(t, c.Constant, k.Spec[j])
		}
	}
}

// TestEverySourceHasAVariant finds sources that nothing compiles and blobs that nothing embeds.
func TestEverySourceHasAVariant(t *testing.T) {
	stems, blobs := map[string]bool{}, map[string]bool{}
	for _, v := range variants {
		stems[v.stem] = true
		blobs[v.file()+".spv"] = true
	}
	sources, err := filepath.Glob(filepath.Join(root, "*.comp"))
	require.NoError(t, err)
	require.NotEmpty(t, sources)
	for _, s := range sources {
		require.True(t, stems[strings.TrimSuffix(filepath.Base(s), ".comp")], "%s has no variant", s)
	}
	files, err := filepath.Glob(filepath.Join(root, "spv", "*"))
	require.NoError(t, err)
	require.Len(t, files, len(blobs))
	for _, f := range files {
		require.True(t, blobs[filepath.Base(f)], "%s belongs to no variant", f)
	}
}

// TestEveryIncludeIsUsed finds include files that no kernel reads.
func TestEveryIncludeIsUsed(t *testing.T) {
	used := map[string]bool{}
	for _, v := range variants {
		files, err := sourceFiles(root, v.stem+".comp")
		require.NoError(t, err)
		for _, f := range files {
			used[f] = true
		}
	}
	includes, err := filepath.Glob(filepath.Join(root, "include", "*"))
	require.NoError(t, err)
	for _, f := range includes {
		require.True(t, used["include/"+filepath.Base(f)], "%s is included by no kernel", f)
	}
}

func TestShadersAreShort(t *testing.T) {
	for _, pattern := range []string{"*.comp", "include/*.glsl"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			require.LessOrEqual(t, strings.Count(string(text), "\n"), 250, f)
		}
	}
}

func TestHashSeesEveryInput(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	hash := func(v variant) string {
		h, err := sourceHash(dir, v)
		require.NoError(t, err)
		return h
	}
	v := variant{stem: "k", name: "f32", macros: []string{"A"}}
	write("k.comp", "#include \"include/a.glsl\"\nvoid main() {}\n")
	write("include/a.glsl", "#include \"b.glsl\"\n")
	write("include/b.glsl", "const uint B = 1;\n")
	first := hash(v)
	require.Equal(t, first, hash(v))

	write("include/b.glsl", "const uint B = 1;\r\n")
	require.Equal(t, first, hash(v), "line ends do not count")
	write("include/b.glsl", "const uint B = 2;\n")
	require.NotEqual(t, first, hash(v), "an include of an include")
	write("include/b.glsl", "const uint B = 1;\n")
	require.NotEqual(t, first, hash(variant{stem: "k", name: "f32", macros: []string{"B"}}), "macros")
	write("k.comp", "#include \"include/a.glsl\"\nvoid main() { }\n")
	require.NotEqual(t, first, hash(v), "the source")

	require.NoError(t, os.Remove(filepath.Join(dir, "include/b.glsl")))
	_, err := sourceHash(dir, v)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOldCompilersAreRefused(t *testing.T) {
	version, err := parseVersion([]byte("Glslang Version: 11:16.6.0\nESSL Version: …"))
	require.NoError(t, err)
	require.Equal(t, "16.6.0", version)
	for _, text := range []string{"Glslang Version: 11:12.0.0", "Glslang Version: 10:7.11.3214", "shaderc v2023.2", ""} {
		_, err := parseVersion([]byte(text))
		require.Error(t, err, text)
	}
	t.Setenv("VKMOE_GLSLANG", filepath.Join(t.TempDir(), "absent"))
	_, err = findCompiler(root)
	require.Error(t, err)
	t.Setenv("VKMOE_GLSLANG", "")
	_, err = findCompiler(t.TempDir())
	require.ErrorContains(t, err, "scripts/glslang.sh")
}

func TestRenderTypes(t *testing.T) {
	k := kernelInfo{
		variant:   variant{stem: "fake_stem", name: "bf16"},
		pushBytes: 16,
		push: []spirv.Field{
			{Field: kernel.Field{Name: "x", Size: 8}, Type: "u32x2"},
			{Field: kernel.Field{Name: "scale", Offset: 8, Size: 4}, Type: "f32"},
			{Field: kernel.Field{Name: "shift", Offset: 12, Size: 4}, Type: "i32"},
		},
		spec: []spirv.Constant{
			{Constant: kernel.Constant{ID: 0, Name: "BM", Default: 32}, Type: "u32"},
			{Constant: kernel.Constant{ID: 1, Name: "EPSILON", Default: math.Float32bits(0.5)}, Type: "f32"},
			{Constant: kernel.Constant{ID: 2, Name: "LOW_BOUND", Default: 0xffffffff}, Type: "i32"},
			{Constant: kernel.Constant{ID: 3, Name: "QUADS", Default: 1}, Type: "bool"},
		},
		localSize: [3]int{0, -1, -1},
		needs:     []kernel.Feature{kernel.BF16},
	}
	files, err := render("16.0.0", []kernelInfo{k})
	require.NoError(t, err)
	require.Len(t, files, 2)
	text := files["fake_stem.go"]
	for _, want := range []string{
		"var FakeStemBf16 = &kernel.Kernel{", "return kernel.Pack(c, pushFakeStem, 16)", "Shift int32", "LowBound int32   // constant 2",
		"kernel.Defaults[FakeStemSpec](specFakeStem)", `{ID: 1, Name: "EPSILON", Default: 1056964608},`, `"bf16",`,
	} {
		require.Contains(t, string(text), want)
	}
	other := k
	other.variant.name, other.pushBytes = "f32", 20
	_, err = render("16.0.0", []kernelInfo{k, other})
	require.ErrorContains(t, err, "differ")
	other.variant.stem = "other"
	_, err = render("16.0.0", []kernelInfo{k, other, k})
	require.ErrorContains(t, err, "twice")
}

// TestStaleFilesGo asks that what was generated of a kernel that is no more goes, and nothing else.
func TestStaleFilesGo(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "spv"), 0o755))
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	kept, keptBlob := write("new.go", generatedBy+"new.comp"), write("spv/new.spv", "")
	own := write("shaders.go", "package shaders")
	old, oldBlob := write("old.go", generatedBy+"old.comp"), write("spv/old.spv", "")
	require.NoError(t, removeStale(dir, map[string]bool{kept: true, keptBlob: true}))
	for _, name := range []string{kept, keptBlob, own} {
		require.FileExists(t, name)
	}
	for _, name := range []string{old, oldBlob} {
		require.NoFileExists(t, name)
	}
}

// TestGeneratedFilesAreShort holds them to what a reader finds his way in.
func TestGeneratedFilesAreShort(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		require.LessOrEqual(t, strings.Count(string(text), "\n"), 400, f)
	}
}
