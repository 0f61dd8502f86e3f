package vk

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const childVariable = "VKMOE_TEST_CHILD"

// missing finds in a skipped test's output what it needs.
var missing = regexp.MustCompile(`(?m) needs .*$`)

// inChild runs the calling test once more in a process of its own with these environment variables, because loader,
// instances and the process's message log cannot be undone. It returns true in that process, where the test goes on,
// and false in the first one, where the test ends as the other did.
func inChild(t *testing.T, env ...string) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	var pattern []string
	for _, part := range strings.Split(t.Name(), "/") {
		pattern = append(pattern, "^"+part+"$")
	}
	// Argument 0, not the executable's path: the test may have been started through another run-time linker.
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run="+strings.Join(pattern, "/"))
	cmd.Env = append(append(os.Environ(), childVariable+"=1"), env...)
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	if strings.Contains(string(output), "--- SKIP: "+t.Name()) {
		t.Skipf("needs what its own process lacks:%s", missing.Find(output))
	}
	require.Contains(t, string(output), "--- PASS: "+t.Name())
	return false
}

// skipWithoutVulkan skips a test that needs a loader and a device, unless VKMOE_REQUIRE_GPU=1 says that they must be
// there.
func skipWithoutVulkan(t *testing.T, err error) {
	t.Helper()
	if (errors.Is(err, ErrNoDevice) || errors.Is(err, ErrNoLoader)) && os.Getenv("VKMOE_REQUIRE_GPU") != "1" {
		t.Skipf("needs a Vulkan device: %v", err)
	}
}
