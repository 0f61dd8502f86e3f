package attention

import (
	"testing"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/vk"
)

// dev is the device of all tests of the package, nil when there is none.
var dev *vk.Device

func TestMain(m *testing.M) { gputest.Main(m, &dev) }

// A kit makes tensors of heads besides (headsOf).
type kit struct{ *gputest.Kit }

func newKit(t testing.TB) *kit {
	t.Helper()
	return &kit{gputest.New(t, dev)}
}
