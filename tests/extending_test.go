package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var quote = regexp.MustCompile("(?s)(?:<!-- (\\S+) -->\n)?```(\\w*)\n(.*?)```\n")

// trimmed is a text's lines without their indentation.
func trimmed(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// TestExtendingQuotesTheExamples finds every snippet of doc/extending.md in the file that it names, which is compiled and
// tested. A line with … alone stands for lines left out.
func TestExtendingQuotesTheExamples(t *testing.T) {
	text, err := os.ReadFile("../doc/extending.md")
	require.NoError(t, err)
	quotes := quote.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\r", ""), -1)
	require.Equal(t, 2*len(quotes), strings.Count(string(text), "```"))
	require.Greater(t, len(quotes), 8)
	for _, q := range quotes {
		require.NotEmpty(t, q[1], "a snippet without a source:\n%s", q[3])
		source, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(q[1])))
		require.NoError(t, err)
		for _, part := range strings.Split(trimmed(q[3]), "\n…\n") {
			require.Contains(t, trimmed(string(source)), strings.Trim(part, "\n"), q[1])
		}
	}
}

// TestExtendingLinksExist follows the relative links of doc/extending.md.
func TestExtendingLinksExist(t *testing.T) {
	text, err := os.ReadFile("../doc/extending.md")
	require.NoError(t, err)
	links := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, links)
	for _, l := range links {
		_, err := os.Stat(filepath.Join("..", "doc", filepath.FromSlash(l[1])))
		require.NoError(t, err)
	}
}
