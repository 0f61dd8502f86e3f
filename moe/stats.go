package moe

import (
	"context"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// RouterSums are a router's statistics on the device, as sums over its tokens.
//
// The probability p of an expert is the softmax over all E logits of a token; for the sigmoid modes it is the expert's score
// divided by the sum of all E scores (DeepSeek-V3, arXiv 2412.19437, equation 19). A row of logits that holds a NaN or
// +Inf, or nothing but −Inf, makes every element of Sums NaN.
type RouterSums struct {
	Tokens, K, Experts int // T, choices per token, E

	Sums   *vk.Tensor // F32 [E+2]: Σ_t p of each expert; Σ_t −Σ_e p·ln p; Σ_t (ln Σ_e e^logit)²
	Counts *vk.Tensor // U32 [E+1]: choices of each expert; of all experts
}

// CollectStats records the statistics of a routing and its logits F32 [T,E] in two passes. Probabilities follow the mode of
// Routing.Router; a routing of the caller's ids has those of a softmax. Sums and Counts are scratch of rec, beside
// 4·blocks·(E+2) bytes that are released; there are at most 1,024 blocks up to T = 786,432, and at most T/768 + 1.
// Errors: see the package.
func CollectStats(rec *vk.Recorder, r *Routing, logits *vk.Tensor) (*RouterSums, error) {
	const op = "CollectStats"
	if err := checkRouted(rec.Device(), op, r, logits); err != nil {
		return nil, rec.Fail(err)
	}
	s := &RouterSums{Tokens: r.Tokens, K: r.K, Experts: r.Experts,
		Sums: rec.Scratch(vk.F32, r.Experts+2), Counts: rec.Scratch(vk.U32, r.Experts+1)}
	if rec.Err() != nil {
		return nil, rec.Err()
	}
	return s, s.collect(rec, r, logits)
}

// checkRouted checks a routing and the logits that belong to it.
func checkRouted(dev *vk.Device, op string, r *Routing, logits *vk.Tensor) error {
	if r == nil {
		return &vk.ShapeError{Op: op, Arg: "routing", Want: "a routing", Got: "nil"}
	}
	return check.First(
		check.Tensor(dev, op, "routing.Offsets", r.Offsets, vk.I32, r.Experts+1),
		check.Tensor(dev, op, "logits", logits, vk.F32, r.Tokens, r.Experts),
	)
}

const (
	statsThreads    = 64   // work-group size of router_stats and router_stats_sum
	statsColumns    = 8    // columns per work-group of router_stats_sum
	statsBlockGoal  = 1024 // rows of partial sums
	entropySum      = 0    // place behind the experts in Sums
	logSumExp2Sum   = 1
	statsExtraWords = 2
)

// statsChunkLoops is how many loop iterations an invocation of router_stats takes for statsThreads rows.
func statsChunkLoops(experts int) int {
	width := 1
	for width < experts && width < statsThreads {
		width *= 2
	}
	return 4*experts + check.CeilDiv(experts, width)*(width+1) + 1
}

// statsBlocks cuts T rows into blocks of a multiple of statsThreads rows: statsBlockGoal blocks, or more where one would
// loop too often.
func statsBlocks(tokens, experts int) (perBlock, blocks int) {
	chunks := max(1, check.CeilDiv(tokens, statsBlockGoal*statsThreads))
	chunks = min(chunks, (maxLoop-1-experts)/statsChunkLoops(experts))
	return chunks * statsThreads, check.CeilDiv(tokens, chunks*statsThreads)
}

// sigmoid reports whether the routing's probabilities are those of a sigmoid mode.
func (r *Routing) sigmoid() bool { return r.Router != nil && r.Router.Mode.Sigmoid() }

// collect records both passes.
func (s *RouterSums) collect(rec *vk.Recorder, r *Routing, logits *vk.Tensor) error {
	perBlock, blocks := statsBlocks(r.Tokens, r.Experts)
	partial := rec.Scratch(vk.F32, blocks, r.Experts+statsExtraWords)
	if rec.Err() != nil {
		return rec.Err()
	}
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.RouterStats,
		Spec:   shaders.RouterStatsSpec{Threads: statsThreads, Sums: uint32(max(statsThreads, r.Experts)), Sigmoid: r.sigmoid()}.Values(),
		Push: shaders.RouterStatsPush{Logits: logits.Address(), Partial: partial.Address(), Tokens: uint32(r.Tokens),
			Experts: uint32(r.Experts), RowsPerBlock: uint32(perBlock), Blocks: uint32(blocks)}.Bytes(),
		Linear: uint64(blocks),
		Reads:  []*vk.Tensor{logits},
		Writes: []*vk.Tensor{partial},
		FLOPs:  60 * float64(r.Tokens) * float64(r.Experts),
	})
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.RouterStatsSum,
		Spec:   shaders.RouterStatsSumSpec{Threads: statsThreads, Columns: statsColumns}.Values(),
		Push: shaders.RouterStatsSumPush{Partial: partial.Address(), Offsets: r.Offsets.Address(), Sums: s.Sums.Address(),
			Counts: s.Counts.Address(), Experts: uint32(r.Experts), Blocks: uint32(blocks)}.Bytes(),
		Linear: uint64(check.CeilDiv(r.Experts+statsExtraWords, statsColumns)),
		Reads:  []*vk.Tensor{partial, r.Offsets},
		Writes: []*vk.Tensor{s.Sums, s.Counts},
		FLOPs:  float64(blocks) * float64(r.Experts),
	})
	rec.Release(partial)
	return rec.Err()
}

// RouterStats are a router's statistics for display. Entropies are in nats, at most ln E.
type RouterStats struct {
	Tokens, K, Experts int // T, choices per token, E

	Choices         []int     // [E] how many slots chose each expert
	MeanProbability []float64 // [E] mean over the tokens, whose sum is 1
	TokenEntropy    float64   // mean entropy of a token's probabilities: how undecided the router is
	ExpertEntropy   float64   // entropy of MeanProbability: how evenly the experts are liked
	Balance         float64   // the largest of Choices over their mean: 1 when balanced, E/K at worst
	LogSumExp2      float64   // mean squared logsumexp of the logits, the router z-loss
}

// Read waits for the device and returns the statistics of the recorder's last run. Without tokens all are 0.
// Errors are vk.Download's.
func (s *RouterSums) Read(ctx context.Context) (*RouterStats, error) {
	sums, err := vk.Download[float32](ctx, s.Sums)
	if err != nil {
		return nil, err
	}
	counts, err := vk.Download[uint32](ctx, s.Counts)
	if err != nil {
		return nil, err
	}
	return s.stats(sums, counts), nil
}

// stats turns sums into means.
func (s *RouterSums) stats(sums []float32, counts []uint32) *RouterStats {
	out := &RouterStats{Tokens: s.Tokens, K: s.K, Experts: s.Experts, Choices: make([]int, s.Experts),
		MeanProbability: make([]float64, s.Experts)}
	tokens := float64(max(1, s.Tokens))
	for e := range s.Experts {
		out.Choices[e] = int(counts[e])
		p := float64(sums[e]) / tokens
		out.MeanProbability[e] = p
		if p != 0 {
			out.ExpertEntropy -= p * math.Log(p)
		}
		if all := float64(counts[s.Experts]); all > 0 {
			out.Balance = max(out.Balance, float64(counts[e])*float64(s.Experts)/all)
		}
	}
	out.TokenEntropy = float64(sums[s.Experts+entropySum]) / tokens
	out.LogSumExp2 = float64(sums[s.Experts+logSumExp2Sum]) / tokens
	return out
}
