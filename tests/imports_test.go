// Package tests holds what no single package can: the import graph of the module.
package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module   = "github.com/vkmoe/vkmoe"
	vulkanGo = "github.com/vulkan-go/vulkan"
	glfw     = "github.com/go-gl/glfw"
)

// mayImport lists, for each package of the module, which others its code may import directly. Imports only descend:
// cmd → model → attention → moe → {vk, shaders} → internal/kernel. A package that is not listed is a decision still to be
// made, and fails the test.
var mayImport = map[string][]string{
	"internal/kernel":      {},
	"internal/spirv":       {"internal/kernel"},
	"internal/ref":         {},
	"internal/safetensors": {},
	"internal/canvas":      {},
	"internal/dashboard":   {"internal/canvas"},
	"internal/session":     {"internal/dashboard", "internal/safetensors", "model", "model/train", "model/tokenizer", "attention", "moe", "vk"},
	"internal/present":     {"internal/canvas", "vk"},
	"internal/window":      {},
	"internal/xtest":       {},
	"shaders":              {"internal/kernel"},
	"shaders/gen":          {"internal/kernel", "internal/spirv"},
	"vk":                   {"internal/kernel", "internal/spirv"},
	"moe":                  {"vk", "shaders", "internal/kernel", "internal/check"},
	"attention":            {"moe", "vk", "shaders", "internal/kernel", "internal/check"},
	"internal/check":       {"vk"},
	"internal/gputest":     {"internal/ref", "vk"},
	"model":                {"attention", "moe", "vk", "shaders", "internal/kernel", "internal/check", "internal/safetensors"},
	"model/tokenizer":      {},
	"model/train":          {"model", "attention", "moe", "vk", "shaders", "internal/check", "internal/safetensors"},
	"tests/golden":         {"model", "attention", "moe", "vk", "internal/ref", "internal/safetensors"},
	"tests":                {},

	"tests/conform":        {"model/train", "model", "attention", "moe", "vk", "shaders", "internal/ref", "internal/safetensors"},
	"tests/conform/worker": {"tests/conform", "vk"},
	"tests/conform/report": {"tests/conform"},

	// What users can do, so with what users have.
	"examples/train":       {"moe", "vk", "shaders"},
	"examples/lora":        {"examples/train", "moe", "vk", "shaders"},
	"examples/normexperts": {"examples/train", "moe", "vk", "shaders"},

	"cmd/vkmoe-train":   {"model/train", "model", "attention", "moe", "vk"},
	"cmd/vkmoe-conform": {"tests/golden", "tests/conform", "tests/conform/worker", "tests/conform/report", "model", "attention", "moe", "vk", "internal/ref", "internal/safetensors"},
	"cmd/vkmoe-bench":   {"model/train", "model", "attention", "moe", "vk", "shaders", "internal/kernel", "internal/ref"},
	"cmd/vkmoe-demo":    {"internal/session", "internal/dashboard", "internal/canvas", "internal/window", "internal/present", "vk"},
}

// pure are the packages that need neither cgo nor a GPU, with everything they import.
var pure = []string{"internal/kernel", "internal/spirv", "internal/ref", "internal/safetensors", "shaders", "shaders/gen"}

type goPackage struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
	Standard   bool
}

// listPackages returns every package of the module with all it depends on, the window included and tests aside, by import
// path.
func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "desktop", "-deps", "-json=ImportPath,Imports,CgoFiles,Standard", module+"/...")
	// Without CGO_ENABLED=1 files that use cgo would be left out, and go with them what they import.
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%v: %s", err, exit.Stderr)
	}
	require.NoError(t, err)
	packages := map[string]goPackage{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		err := dec.Decode(&p)
		if err == io.EOF {
			return packages
		}
		require.NoError(t, err)
		packages[p.ImportPath] = p
	}
}

// inModule returns a package's path within the module.
func inModule(importPath string) (string, bool) { return strings.CutPrefix(importPath, module+"/") }

func TestImportsDescend(t *testing.T) {
	seen := 0
	for importPath, p := range listPackages(t) {
		name, ok := inModule(importPath)
		if !ok {
			continue
		}
		seen++
		allowed, listed := mayImport[name]
		if !listed {
			t.Errorf("%s is not in this test's table: decide what it may import", name)
			continue
		}
		for _, imported := range p.Imports {
			if other, ok := inModule(imported); ok && !slices.Contains(allowed, other) {
				t.Errorf("%s imports %s", name, other)
			}
		}
	}
	require.Greater(t, seen, 6, "the module's packages were not found")
}

func TestOnlyVkImportsVulkanAndOnlyTheWindowImportsGLFW(t *testing.T) {
	vulkanUsers := []string{}
	for importPath, p := range listPackages(t) {
		name, ok := inModule(importPath)
		if !ok {
			continue
		}
		for _, imported := range p.Imports {
			switch {
			case imported == vulkanGo:
				vulkanUsers = append(vulkanUsers, name)
			case strings.HasPrefix(imported, glfw) && name != "internal/window":
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
	require.Equal(t, []string{"vk"}, vulkanUsers)
}

func TestPurePackagesNeedNeitherCgoNorAGPU(t *testing.T) {
	packages := listPackages(t)
	for _, name := range pure {
		start, ok := packages[path.Join(module, name)]
		require.True(t, ok, "%s does not exist", name)
		visited := map[string]bool{}
		var visit func(p goPackage, chain string)
		visit = func(p goPackage, chain string) {
			// The standard library has a pure Go form of everything; CGO_ENABLED=0 selects it.
			if visited[p.ImportPath] || p.Standard {
				return
			}
			visited[p.ImportPath] = true
			if len(p.CgoFiles) > 0 || slices.Contains(p.Imports, "C") {
				t.Errorf("%s uses cgo", chain)
			}
			if p.ImportPath == vulkanGo || strings.HasPrefix(p.ImportPath, glfw) {
				t.Errorf("%s needs a GPU", chain)
			}
			for _, imported := range p.Imports {
				visit(packages[imported], chain+" → "+imported)
			}
		}
		visit(start, name)
	}
}

// A machine without the window system's headers builds everything but the window: GLFW is behind the tag desktop.
func TestGLFWIsBehindItsTag(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"/...").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), vulkanGo)
	require.NotContains(t, string(out), glfw)
}
