package tests

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var skipCall = regexp.MustCompile(`\bt\.Skip(Now|f)?\((.*)`)

// TestSkipsNameWhatIsMissing holds every test that is skipped to saying what it needs. That it would take long is no reason: a
// test has a short form instead.
func TestSkipsNameWhatIsMissing(t *testing.T) {
	cmd := exec.Command("git", "grep", "-nE", `\bt\.Skip(Now|f)?\(`, "--", "*.go")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Skip("needs a git checkout: ", err)
	}
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		call := skipCall.FindStringSubmatch(line)
		if strings.HasPrefix(line, "tests/skips_test.go") || call == nil {
			continue
		}
		seen++
		require.True(t, strings.HasPrefix(call[2], `"needs `), "say what is missing as \"needs …\": %s", line)
	}
	require.Greater(t, seen, 10, "the skips were not found")
}
