package model

import (
	"testing"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) { gputest.Main(m, &dev) }
