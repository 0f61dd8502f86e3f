package moe

import (
	"testing"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) { gputest.Main(m, &dev) }

// A kit makes routings besides (guardedRouting), and says which path linearCases take.
type kit struct {
	*gputest.Kit
	matrices tensorTile // the tensor path's tile
	vectors  vectorTile // the decode path's
}

func newKit(t testing.TB) *kit {
	t.Helper()
	return &kit{Kit: gputest.New(t, dev)}
}
