package moe

import (
	"context"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A Routing says which expert computes which slot, as tensors on the device. Expert modules are built from it: a slot s
// belongs to token s/K, its row in grouped order is Inverse[s], and expert e owns the grouped rows
// Offsets[e] to Offsets[e+1].
//
// A slot whose id names no expert (which only ids of the caller can) is in no group: its Inverse is −1.
type Routing struct {
	Tokens, K, Experts int // T, choices per token, E

	// Router is how Route chose, nil when the caller did.
	Router *RouterConfig

	IDs     *vk.Tensor // I32 [T,K]: the expert of each slot
	Gates   *vk.Tensor // F32 [T,K], nil when the caller gave none
	Order   *vk.Tensor // I32 [T·K]: grouped position → slot, by expert and then by slot
	Inverse *vk.Tensor // I32 [T·K]: slot → grouped position
	Offsets *vk.Tensor // I32 [E+1]: an expert's first grouped position; the last is the number of valid slots

	// Each expert's rows are cut into tiles of BlockM rows; only an expert's last tile is ragged. The host does not know
	// how many there are, only that TileBound suffices.
	BlockM    int        // rows of a tile
	TileBound int        // most tiles that there can be
	Tiles     *vk.Tensor // I32 [TileBound,3]: expert, first grouped position, end of the expert's positions
	TileArgs  *vk.Tensor // U32 [4]: work-group counts for an indirect dispatch of one work-group per tile; number of tiles
}

// Slots is T·K.
func (r *Routing) Slots() int { return r.Tokens * r.K }

// Route records a router: TopK on logits F32 [T,E], then the grouping of the slots by expert.
//
// It takes 4·(4·T·K + 2·tiles + blocks·(E+2) + E + 9) bytes of scratch: tiles = ⌈T·K/BlockM⌉ + min(E,T·K), and blocks
// none up to 4,096 slots, else at most 128 or, for many experts, 16,384/(E+2), unless that is below 32.
// Errors: see the package.
func Route(rec *vk.Recorder, logits *vk.Tensor, cfg RouterConfig) (*Routing, error) {
	ids, gates, err := TopK(rec, logits, cfg)
	if err != nil {
		return nil, err
	}
	r := &Routing{Tokens: ids.Dim(0), K: ids.Dim(1), Experts: logits.Dim(1), Router: &cfg, IDs: ids, Gates: gates}
	_, err = r.group(rec)
	return r, err
}

// RouteIDs records the grouping of slots whose experts the caller has chosen: ids I32 [T,K] and gates F32 [T,K], or nil
// for no gates. An id outside [0, experts) is detected on the device and never followed: its slot adds nothing to any
// result, and waiting for the run returns an *ExpertIDError. The same expert may be named twice in a row.
func RouteIDs(rec *vk.Recorder, ids, gates *vk.Tensor, experts int) (*Routing, error) {
	tokens, k, err := matrix("RouteIDs", "ids", ids)
	if err == nil {
		err = check.First(
			check.Tensor(rec.Device(), "RouteIDs", "ids", ids, vk.I32, tokens, k),
			check.InRange("RouteIDs", "experts", experts, 1, MaxExperts),
			check.InRange("RouteIDs", "choices per token", k, 1, MaxExperts),
		)
	}
	if err == nil && gates != nil {
		err = check.Tensor(rec.Device(), "RouteIDs", "gates", gates, vk.F32, tokens, k)
	}
	if err != nil {
		return nil, rec.Fail(err)
	}
	r := &Routing{Tokens: tokens, K: k, Experts: experts, IDs: ids, Gates: gates}
	status, err := r.group(rec)
	if err != nil {
		return nil, err
	}
	rec.Check(status, func(words []uint32) error {
		if words[0] == 0 {
			return nil
		}
		return &ExpertIDError{Slot: int(words[1]), ID: int32(words[2]), Experts: experts, Count: int(words[0])}
	})
	return r, rec.Err()
}

// CheckIDs reports ids outside [0, experts) as an *ExpertIDError.
func CheckIDs(ids []int32, experts int) error {
	var bad *ExpertIDError
	for s, id := range ids {
		switch {
		case id >= 0 && int(id) < experts:
		case bad == nil:
			bad = &ExpertIDError{Slot: s, ID: id, Experts: experts, Count: 1}
		default:
			bad.Count++
		}
	}
	if bad != nil {
		return bad
	}
	return nil
}

// NewIDs checks expert ids on the host, t·K + j being the index of choice j of token t, and uploads them as I32 [T,K] for
// RouteIDs. The caller closes the tensor. A bad id is an *ExpertIDError.
func NewIDs(ctx context.Context, dev *vk.Device, ids []int32, k, experts int) (*vk.Tensor, error) {
	if k < 1 || len(ids)%k != 0 {
		return nil, &vk.ShapeError{Op: "NewIDs", Arg: "ids", Want: fmt.Sprintf("rows of %d", k), Got: fmt.Sprintf("%d ids", len(ids))}
	}
	if err := CheckIDs(ids, experts); err != nil {
		return nil, err
	}
	t, err := dev.NewTensor(vk.I32, len(ids)/k, k)
	if err != nil {
		return nil, err
	}
	if err := vk.Upload(ctx, t, ids); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

const (
	maxScatterMasks = 2064    // words of expert_scatter's masks
	maxDirectSort   = 4096    // slots that every block of expert_scatter counts in less time than a dispatch takes
	sortThreads     = 128     // work-group size of expert_histogram
	minSlotsPerSort = 512     // slots per block
	maxSlotsPerSort = 1 << 16 // 1,024 chunks of a software device, each each ranked in a loop of 16: below maxLoop
)

// scatterThreads is the work-group size of expert_scatter: the chunk whose slots are ranked together.
func scatterThreads(software bool) int {
	if software {
		return 64
	}
	return 256
}

// scatterSpec returns expert_scatter's specialization constants, with masks where a device has room for them.
func scatterSpec(software, direct bool, experts int, sharedBytes uint32) shaders.ExpertScatterSpec {
	threads := scatterThreads(software)
	masks := threads / 32 * (experts + 1)
	if masks > maxScatterMasks || 4*(3*(MaxExperts+1)+masks+8)+8*threads > int(sharedBytes) {
		masks = 0
	}
	return shaders.ExpertScatterSpec{Threads: uint32(threads), Direct: direct, Masks: uint32(masks)}
}

// sortBlocks cuts the slots into blocks: enough of them to fill a device, few enough that each can add up the counts of
// all, blocks·(E+2) words. Few slots have no blocks: they are sorted without counts.
func sortBlocks(slots, experts int) (perBlock, blocks int) {
	if slots <= maxDirectSort {
		return 0, 0
	}
	most := min(128, max(32, 1<<14/(experts+2)))
	perBlock = min(max(minSlotsPerSort, check.CeilDiv(slots, most)), maxSlotsPerSort)
	return perBlock, check.CeilDiv(slots, perBlock)
}

// sortScratch is what the counting sort needs beside its results.
type sortScratch struct {
	counts *vk.Tensor // U32 [blocks, E+2]
	status *vk.Tensor // U32 [4]: slots without an expert, the lowest of them, its id

	compare bool // ranks by comparison even where there is room for masks: for tests
}

// group allocates the routing's tensors, records the sort and returns its status tensor.
func (r *Routing) group(rec *vk.Recorder) (*vk.Tensor, error) {
	slots := r.Slots()
	if slots > math.MaxInt32-1<<16 {
		return nil, rec.Fail(&vk.ShapeError{Op: "Route", Arg: "ids", Want: "fewer than 2^31 − 2^16 slots", Got: r.IDs.String()})
	}
	r.BlockM = chooseBlockM(rec.Device(), slots, r.Experts)
	r.TileBound = check.CeilDiv(slots, r.BlockM) + min(r.Experts, slots)
	_, blocks := sortBlocks(slots, r.Experts)
	r.Order = rec.Scratch(vk.I32, slots)
	r.Inverse = rec.Scratch(vk.I32, slots)
	r.Offsets = rec.Scratch(vk.I32, r.Experts+1)
	r.Tiles = rec.Scratch(vk.I32, r.TileBound, 3)
	r.TileArgs = rec.Scratch(vk.U32, 4)
	s := sortScratch{
		counts: rec.Scratch(vk.U32, blocks, r.Experts+2),
		status: rec.Scratch(vk.U32, 4),
	}
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	r.sort(rec, s)
	rec.Release(s.counts)
	return s.status, rec.Err()
}

// sort records the stable counting sort of the slots: histogram and scatter, or the scatter alone for few slots.
func (r *Routing) sort(rec *vk.Recorder, s sortScratch) {
	slots, experts := uint32(r.Slots()), uint32(r.Experts)
	threads := scatterThreads(software(rec.Device()))
	perBlock, blocks := sortBlocks(r.Slots(), r.Experts)
	direct := blocks == 0
	if direct {
		perBlock, blocks = threads, check.CeilDiv(r.Slots(), threads)
	} else {
		rec.Dispatch(vk.Dispatch{
			Kernel: shaders.ExpertHistogram,
			Spec:   shaders.ExpertHistogramSpec{Threads: sortThreads}.Values(),
			Push: shaders.ExpertHistogramPush{Ids: r.IDs.Address(), Counts: s.counts.Address(), Slots: slots, Experts: experts,
				SlotsPerBlock: uint32(perBlock), Blocks: uint32(blocks)}.Bytes(),
			Linear: uint64(blocks),
			Reads:  []*vk.Tensor{r.IDs},
			Writes: []*vk.Tensor{s.counts},
			FLOPs:  float64(slots),
		})
	}
	spec := scatterSpec(software(rec.Device()), direct, r.Experts, rec.Device().Caps().SharedMemoryBytes)
	if s.compare {
		spec.Masks = 0
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.ExpertScatter,
		Spec:   spec.Values(),
		Push: shaders.ExpertScatterPush{Ids: r.IDs.Address(), Counts: s.counts.Address(), Offsets: r.Offsets.Address(),
			Order: r.Order.Address(), Inverse: r.Inverse.Address(), Tiles: r.Tiles.Address(), TileArgs: r.TileArgs.Address(),
			Status: s.status.Address(), Slots: slots, Experts: experts, SlotsPerBlock: uint32(perBlock), Blocks: uint32(blocks),
			BlockM: uint32(r.BlockM)}.Bytes(),
		Linear: uint64(max(blocks, 1)),
		Reads:  []*vk.Tensor{r.IDs, s.counts},
		Writes: []*vk.Tensor{r.Offsets, r.Order, r.Inverse, r.Tiles, r.TileArgs, s.status},
		FLOPs:  float64(slots) * float64(threads),
	})
}
