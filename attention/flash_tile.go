package attention

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// maxLoop is after how many iterations of a shader's loops lavapipe ends them without a word
// (LP_MAX_TGSI_LOOP_ITERATIONS in Mesa).
const maxLoop = 65535

// A flashTile is how flash_attention cuts its work: BM rows × BN keys at a time, each invocation TM × TN of them; BK columns
// of four of queries and keys, or BV keys of the values, go through shared memory at a time, in loops unrolled UK and UV
// times.
type flashTile struct{ BM, BN, TM, TN, BK, BV, UK, UV int }

func (t flashTile) String() string {
	return fmt.Sprintf("%d rows × %d keys, %d×%d per invocation, %d invocations", t.BM, t.BN, t.TM, t.TN, t.threads())
}

// threads is the number of invocations of a work-group.
func (t flashTile) threads() int { return t.BM / t.TM * (t.BN / t.TN) }

// spec returns the kernel's specialization constants of the tile and the configuration.
func (t flashTile) spec(cfg FlashConfig) shaders.FlashAttentionSpec {
	return shaders.FlashAttentionSpec{Threads: uint32(t.threads()), BM: uint32(t.BM), BN: uint32(t.BN), TM: uint32(t.TM),
		TN: uint32(t.TN), BK: uint32(t.BK), BV: uint32(t.BV), UK: uint32(t.UK), UV: uint32(t.UV), Width: uint32(cfg.Width),
		ValueWidth: uint32(cfg.ValueWidth), Cap: cfg.SoftCap}
}

// sharedBytes is the work-group memory that the tile takes.
func (t flashTile) sharedBytes(valueWidth int) int {
	quads := t.BM*(t.BK+1) + max(t.BN*(t.BK+1), t.BV*check.CeilDiv(valueWidth, 4))
	return 16*quads + 4*t.BM*(t.BN+4) + 4*t.BM*(t.BN/t.TN)
}

// loops is how often an invocation loops for a number of keys, at most; the end of each loop counts. Six loops per tile were
// found to come on top by lengthening sequences on lavapipe 22.3 until it ended them.
func (t flashTile) loops(cfg FlashConfig, keys int) int {
	loads := func(n int) int {
		if each := check.CeilDiv(n, t.threads()); each > 4 { // else unrolled
			return each + 1
		}
		return 0
	}
	columns := 1 + loads(t.BM*t.BK) + loads(t.BN*t.BK) + t.BK/t.UK + 1
	values := 1 + loads(t.BV*check.CeilDiv(cfg.ValueWidth, 4)) + t.BV/t.UV + 1
	perTile := 6 + 1 + check.CeilDiv(check.CeilDiv(cfg.Width, 4), t.BK)*columns + 1 + t.BN/t.BV*values + 1
	edges := 2 * (t.BM/t.BN + 2) * t.BN // there each key is looked at
	return check.CeilDiv(keys, t.BN)*perTile + edges + 64
}

// A flashRule is one line of the table of tiles: for devices that are software or not, from a mean number of rows per
// sequence and key/value head on, up to a width of values.
type flashRule struct {
	software      bool
	meanRows      int
	maxValueWidth int
	tile          flashTile
}

// flashRules is searched from the top. BK and BV follow from the widths.
var flashRules = []flashRule{
	{true, 12, MaxHeadWidth, flashTile{BM: 32, BN: 32, TM: 4, TN: 4}},
	{true, 3, MaxHeadWidth, flashTile{BM: 8, BN: 32, TM: 4, TN: 4}},
	{true, 2, MaxHeadWidth, flashTile{BM: 2, BN: 32, TM: 2, TN: 4}},
	{true, 0, MaxHeadWidth, flashTile{BM: 1, BN: 32, TM: 1, TN: 4}},
	{false, 48, 128, flashTile{BM: 64, BN: 32, TM: 4, TN: 4}},
	{false, 20, MaxHeadWidth, flashTile{BM: 32, BN: 32, TM: 2, TN: 4}},
	{false, 6, MaxHeadWidth, flashTile{BM: 16, BN: 32, TM: 2, TN: 4}},
	{false, 2, MaxHeadWidth, flashTile{BM: 4, BN: 64, TM: 4, TN: 2}},
	{false, 0, MaxHeadWidth, flashTile{BM: 1, BN: 64, TM: 1, TN: 2}},
}

// fit sets how much goes through shared memory at a time. Compilers of software devices take seconds where much is unrolled.
func (t flashTile) fit(cfg FlashConfig, software bool) flashTile {
	const columns = 8 // of four
	width, values := check.CeilDiv(cfg.Width, 4), check.CeilDiv(cfg.ValueWidth, 4)
	t.BK = check.CeilDiv(width, check.CeilDiv(width, columns))
	t.UK, t.UV = t.BK, 4
	if software {
		t.BK += t.BK % 2
		t.UK, t.UV = 2, 2
	}
	t.BV = 16
	for t.BV > 4 && t.BV*values > max(t.BN*(t.BK+1), 256) {
		t.BV /= 2
	}
	return t
}

// chooseFlashTile picks the tile for rows per sequence and key/value head. A device with less work-group memory than the
// first choice takes gets the next.
func chooseFlashTile(dev *vk.Device, cfg FlashConfig, meanRows int) flashTile {
	software := dev.Adapter().Type == vk.Software
	var last flashTile
	for _, r := range flashRules {
		if r.software != software || meanRows < r.meanRows || cfg.ValueWidth > r.maxValueWidth {
			continue
		}
		last = r.tile.fit(cfg, software)
		if last.sharedBytes(cfg.ValueWidth) <= int(dev.Caps().SharedMemoryBytes) {
			break
		}
	}
	return last
}

// Work-groups that keep a device busy, and how few keys a split is worth.
const (
	busyGroups, busyKeys                 = 256, 256
	busySoftwareGroups, busySoftwareKeys = 8, 512
	maxSplits                            = 64
)

// chooseSplits is in how many parts to cut keys when that many work-groups there are without.
func chooseSplits(software bool, tile flashTile, cfg FlashConfig, groups, keys int) int {
	busy, few := busyGroups, busyKeys
	if software {
		busy, few = busySoftwareGroups, busySoftwareKeys
	}
	splits := min(max(1, busy/max(1, groups)), max(1, keys/few), maxSplits)
	for software && tile.loops(cfg, check.CeilDiv(keys, splits)+tile.BN) >= maxLoop*3/4 {
		splits++
	}
	return splits
}
