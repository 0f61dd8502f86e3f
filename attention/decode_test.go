package attention

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/vk"
)

// decodeSteps appends rows to two sequences: a prompt each, chunks, nothing for one of them, and single tokens.
var decodeSteps = [][]int{{9, 5}, {4, 0}, {1, 1}, {1, 1}, {3, 17}, {1, 1}, {0, 2}}

// layerLengths are what the steps add up to.
func layerLengths(steps [][]int) []int {
	out := make([]int, len(steps[0]))
	for _, step := range steps {
		for b, n := range step {
			out[b] += n
		}
	}
	return out
}

// A layerDecoder decodes with a layer, step by step; steps of as many rows share a recording.
type layerDecoder struct {
	t         *testing.T
	dtype     vk.DType
	width     int
	cache     *KVCache
	record    func(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) error
	offsets   *vk.Tensor
	recorders map[int]*decodeRecording
	closes    []func() error
}

type decodeRecording struct {
	rec  *vk.Recorder
	x, y *vk.Tensor
}

func newLayerDecoder(t *testing.T, dtype vk.DType, width int, cfg KVCacheConfig) *layerDecoder {
	t.Helper()
	d := &layerDecoder{t: t, dtype: dtype, width: width, recorders: map[int]*decodeRecording{}}
	var err error
	d.cache, err = NewKVCache(context.Background(), dev, cfg)
	require.NoError(t, err)
	d.closes = append(d.closes, d.cache.Close)
	d.offsets = d.tensor(vk.I32, cfg.Sequences+1)
	t.Cleanup(func() {
		for i := len(d.closes) - 1; i >= 0; i-- {
			require.NoError(t, d.closes[i]())
		}
	})
	return d
}

func (d *layerDecoder) tensor(dtype vk.DType, shape ...int) *vk.Tensor {
	x, err := dev.NewTensor(dtype, shape...)
	require.NoError(d.t, err)
	d.closes = append(d.closes, x.Close)
	return x
}

// recording records a step of so many rows, unless that has been done.
func (d *layerDecoder) recording(tokens int) *decodeRecording {
	if r := d.recorders[tokens]; r != nil {
		return r
	}
	r := &decodeRecording{x: d.tensor(d.dtype, tokens, d.width), y: d.tensor(d.dtype, tokens, d.width)}
	var err error
	r.rec, err = dev.NewRecorder()
	require.NoError(d.t, err)
	d.closes = append(d.closes, r.rec.Close)
	require.NoError(d.t, d.record(r.rec, r.x, r.y, Sequences{Offsets: d.offsets}))
	d.recorders[tokens] = r
	return r
}

// step runs one step on rows x of both sequences, one behind the other.
func (d *layerDecoder) step(counts []int, x []float32) ([]float32, error) {
	r := d.recording(len(x) / d.width)
	require.NoError(d.t, vk.Upload(context.Background(), d.offsets, offsetsOf(counts)))
	upload(d.t, r.x, x)
	err := r.rec.Run(context.Background())
	return gputest.Download[float32](d.t, r.y), err
}

// check decodes rows x of whole sequences and compares each with want, the oracle's of the whole.
func (d *layerDecoder) check(steps [][]int, x []float32, want []float64, tolerance float64) {
	d.t.Helper()
	lengths := layerLengths(steps)
	first := offsetsOf(lengths)
	got := make([]float32, len(x))
	done := make([]int, len(lengths))
	for _, counts := range steps {
		require.NoError(d.t, d.cache.Reserve(counts...))
		var rows []int
		for b, n := range counts {
			for i := range n {
				rows = append(rows, int(first[b])+done[b]+i)
			}
			done[b] += n
		}
		y, err := d.step(counts, rowsOf(x, rows, d.width))
		require.NoError(d.t, err)
		for i, row := range rows {
			copy(got[row*d.width:(row+1)*d.width], y[i*d.width:])
		}
	}
	for row := range len(x) / d.width { // row by row, so that a wrong one is not lost among many
		at := row * d.width
		requireNear(d.t, got[at:at+d.width], want[at:at+d.width], 10*tolerance, fmt.Sprint("row ", row))
	}
	requireNear(d.t, got, want, tolerance, "all rows")
}

func TestSelfAttentionDecodesWhatForwardGives(t *testing.T) {
	for _, c := range selfCases[:7] {
		for _, dtype := range []vk.DType{vk.F32, vk.BF16} {
			if !c.cfg.Causal || dtype != vk.F32 && c.cfg.QKNorm != NormHead {
				continue // without Causal a row sees the later ones, which a cache does not have yet
			}
			t.Run(fmt.Sprintf("%s %v", c.name, dtype), func(t *testing.T) {
				c.lengths = layerLengths(decodeSteps)
				s := newSelfTest(t, c, dtype)
				capacity := 40
				if c.cfg.Window > 0 {
					capacity = c.cfg.Window + 16 // rows are used again
				}
				d := newLayerDecoder(t, dtype, c.cfg.Width, s.layer.Config.CacheConfig(2, capacity))
				d.record = func(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) error {
					return s.layer.Decode(rec, d.cache, x, y, seq)
				}
				d.check(decodeSteps, s.x, ref.SelfAttentionForward(s.oracle, s.x).Out.Y, layerTolerance(dtype, 4))
			})
		}
	}
}

func TestMLADecodesWhatForwardGives(t *testing.T) {
	for _, c := range mlaCases[:3] {
		for _, dtype := range []vk.DType{vk.F32, vk.F16} {
			t.Run(fmt.Sprintf("%s %v", c.name, dtype), func(t *testing.T) {
				c.lengths = layerLengths(decodeSteps)
				m := newMLATest(t, c, dtype)
				d := newLayerDecoder(t, dtype, c.cfg.Width, m.layer.Config.CacheConfig(2, 40))
				d.record = func(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) error {
					return m.layer.Decode(rec, d.cache, x, y, seq)
				}
				d.check(decodeSteps, m.x, ref.MLAForward(m.oracle, m.x).Out.Y, layerTolerance(dtype, 4))
			})
		}
	}
}

// TestDecodingBeyondTheRoom asks for typed errors where the cache or the table of angles ends.
func TestDecodingBeyondTheRoom(t *testing.T) {
	c := selfCases[0]
	c.lengths = []int{6, 6}
	s := newSelfTest(t, c, vk.F32)
	cache := func(capacity int) *layerDecoder {
		d := newLayerDecoder(t, vk.F32, c.cfg.Width, s.layer.Config.CacheConfig(2, capacity))
		d.record = func(rec *vk.Recorder, x, y *vk.Tensor, seq Sequences) error {
			return s.layer.Decode(rec, d.cache, x, y, seq)
		}
		return d
	}
	d := cache(8)
	_, err := d.step([]int{6, 6}, s.x)
	require.NoError(t, err)
	_, err = d.step([]int{2, 3}, s.x[:5*c.cfg.Width])
	var full *CacheFullError
	require.ErrorAs(t, err, &full)
	require.Equal(t, 1, full.Sequence)

	d = cache(200)
	for range 16 {
		if _, err = d.step([]int{6, 6}, s.x); err != nil {
			break
		}
	}
	require.NoError(t, err, "96 of 100 positions")
	_, err = d.step([]int{6, 6}, s.x)
	var position *PositionError
	require.ErrorAs(t, err, &position)
	require.Equal(t, PositionError{Row: 4, Largest: 101, Positions: 100}, *position)

	var shape *vk.ShapeError
	for _, change := range []func(c *KVCacheConfig){
		func(c *KVCacheConfig) { c.KVHeads++ }, func(c *KVCacheConfig) { c.Width++ }, func(c *KVCacheConfig) { c.DType = vk.F16 },
		func(c *KVCacheConfig) { c.Window = 3 },
	} {
		cfg := d.cache.Config
		change(&cfg)
		other, err := NewKVCache(context.Background(), dev, cfg)
		require.NoError(t, err)
		rec, err := dev.NewRecorder()
		require.NoError(t, err)
		x, y := d.tensor(vk.F32, 2, c.cfg.Width), d.tensor(vk.F32, 2, c.cfg.Width)
		require.ErrorAs(t, s.layer.Decode(rec, other, x, y, Sequences{Offsets: d.offsets}), &shape)
		require.NoError(t, errors.Join(rec.Close(), other.Close()))
	}
}

func TestDecodingNeedsCausalAttention(t *testing.T) {
	c := selfCases[5]
	require.False(t, c.cfg.Causal)
	s := newSelfTest(t, c, vk.F32)
	d := newLayerDecoder(t, vk.F32, c.cfg.Width, s.layer.Config.CacheConfig(1, 40))
	rec, err := dev.NewRecorder()
	require.NoError(t, err)
	defer func() { require.NoError(t, rec.Close()) }()
	x, y := d.tensor(vk.F32, 2, c.cfg.Width), d.tensor(vk.F32, 2, c.cfg.Width)
	var config *ConfigError
	require.ErrorAs(t, s.layer.Decode(rec, d.cache, x, y, Sequences{Offsets: d.offsets}), &config)
	require.Equal(t, "Causal", config.Field)
}
