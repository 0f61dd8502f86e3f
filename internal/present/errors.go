package present

import (
	"fmt"
	"strings"

	"github.com/vkmoe/vkmoe/vk"
)

// VkResult codes that are no failure of the program.
const (
	success     = 0
	notReady    = 1
	timedOut    = 2
	incomplete  = 5
	suboptimal  = 1000001003
	outOfDate   = -1000001004
	surfaceLost = -1000000000
)

// A NoPresenterError says that no device can show anything in the window.
type NoPresenterError struct {
	Reasons []string // one a device: its name and what it lacks
}

func (e *NoPresenterError) Error() string {
	return "no device can show a window here: " + strings.Join(e.Reasons, "; ")
}

// check makes an error of a VkResult that is a failure; errors.Is matches it with vk.ErrDeviceLost and vk.ErrOutOfMemory.
func check[R ~int32](op string, result R) error {
	if result >= 0 {
		return nil
	}
	return fmt.Errorf("window: %w", &vk.ResultError{Op: op, Code: int32(result)})
}
