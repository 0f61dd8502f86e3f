package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// minMajor is the oldest glslang whose language has everything that the shaders use: cooperative matrices and bfloat16.
const minMajor = 16

// A compiler is a glslangValidator of a known version.
type compiler struct {
	path    string
	version string // for example "16.6.0"
}

// findCompiler takes the program that VKMOE_GLSLANG names, or the one in root's .tools/bin.
func findCompiler(root string) (*compiler, error) {
	path := os.Getenv("VKMOE_GLSLANG")
	if path == "" {
		path = filepath.Join(root, ".tools", "bin", "glslangValidator")
		if _, err := os.Stat(path); err != nil {
			return nil, errors.New("no glslang: run scripts/glslang.sh, or set VKMOE_GLSLANG to a glslangValidator")
		}
	}
	return newCompiler(path)
}

// newCompiler asks a program for its version.
func newCompiler(path string) (*compiler, error) {
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w: %s", path, err, out)
	}
	version, err := parseVersion(out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &compiler{path: path, version: version}, nil
}

var versionText = regexp.MustCompile(`Glslang Version: \d+:((\d+)\.\d+\.\d+)`)

// parseVersion reads the text of glslangValidator --version and refuses versions that are too old.
func parseVersion(text []byte) (string, error) {
	m := versionText.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("no glslang version in %q", text)
	}
	if major, err := strconv.Atoi(string(m[2])); err != nil || major < minMajor {
		return "", fmt.Errorf("glslang %s is older than %d", m[1], minMajor)
	}
	return string(m[1]), nil
}

// compile makes the SPIR-V of a variant, with root as working folder so that no path of this machine gets into it.
func (c *compiler) compile(root string, v variant) ([]byte, error) {
	dir, err := os.MkdirTemp("", "vkmoe-gen")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "out.spv")
	args := append(v.arguments(), "-V", "-o", out, v.stem+".comp")
	cmd := exec.Command(c.path, args...)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", v.file(), err, text)
	}
	return os.ReadFile(out)
}
