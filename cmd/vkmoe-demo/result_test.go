package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/tests/golden"
	"github.com/vkmoe/vkmoe/vk"
)

// oracleResult is a result as a device without any error would give it for the built-in text's beginning.
func oracleResult(t *testing.T, tokens, check int) *result {
	t.Helper()
	l, err := loadLayer("olmoe", 0)
	require.NoError(t, err)
	doc, err := loadText("")
	require.NoError(t, err)
	doc.Characters = doc.Characters[:tokens]
	m, err := golden.Oracle(l.MLPWeights)
	require.NoError(t, err)
	x := make([]float32, tokens*l.Config.Width)
	newInput(l, doc.Characters, 0.5).rows(x)
	out := ref.Forward(m, x, tokens)
	r := &result{
		Adapter: &vk.Adapter{Name: "Test device", DriverName: "test"}, Layer: l, Text: doc, Submits: 1,
		Options: &options{Steps: 3, Batch: tokens, Context: 0.5}, IDs: out.IDs, Gates: narrow(out.Gates),
		Wall: 2 * time.Millisecond, Kernels: []kernelTime{{"up", 3 * time.Millisecond}, {"down", time.Millisecond}},
		Load: measureLoad(out.IDs, l.Config.Experts), sample: newSample(tokens, check),
	}
	r.sample.take(0, tokens, x, narrow(out.Out.Y), r.IDs, r.Gates)
	r.Agreement, err = compare(l, r.sample)
	require.NoError(t, err)
	return r
}

func narrow(x []float64) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v)
	}
	return out
}

func TestCompareAcceptsRoundingAndNothingElse(t *testing.T) {
	base := oracleResult(t, 200, 50)
	require.True(t, base.Agreement.Pass)
	require.Equal(t, 50, base.Agreement.Tokens)
	require.Equal(t, 50, base.Agreement.SameChoices)
	require.Less(t, base.Agreement.Error, 1e-7)

	k := base.Layer.Config.TopK
	outside := func(ids []int32) int32 { // an expert that the first token did not choose
		for e := int32(0); ; e++ {
			if !slices.Contains(ids[:k], e) {
				return e
			}
		}
	}
	for name, c := range map[string]struct {
		spoil  func(*sample)
		choice bool // the fault is one of choice
	}{
		"an output":        {func(s *sample) { s.y[7] += 0.01 }, false},
		"every output":     {scaleOutputs(1 + 3e-5), false},
		"a NaN output":     {func(s *sample) { s.y[100] = float32(math.NaN()) }, false},
		"an infinity":      {func(s *sample) { s.y[3] = float32(math.Inf(1)) }, false},
		"a gate":           {func(s *sample) { s.gates[5] *= 1.01 }, false},
		"a NaN gate":       {func(s *sample) { s.gates[5] = float32(math.NaN()) }, false},
		"another expert":   {func(s *sample) { s.ids[1] = outside(s.ids) }, true},
		"an expert twice":  {func(s *sample) { s.ids[1] = s.ids[0] }, true},
		"no such expert":   {func(s *sample) { s.ids[2] = 16 }, true},
		"a negative one":   {func(s *sample) { s.ids[2] = -1 }, true},
		"swapped (a pair)": {func(s *sample) { s.ids[0], s.ids[1] = s.ids[1], s.ids[0] }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := base.sample
			s.y, s.ids, s.gates = slices.Clone(s.y), slices.Clone(s.ids), slices.Clone(s.gates)
			c.spoil(&s)
			a, err := compare(base.Layer, s)
			require.NoError(t, err)
			require.False(t, a.Pass)
			require.Equal(t, c.choice, a.SameChoices < a.Tokens)
		})
	}
	s := base.sample
	s.y = slices.Clone(s.y)
	scaleOutputs(1 + 3e-6)(&s)
	a, err := compare(base.Layer, s)
	require.NoError(t, err)
	require.True(t, a.Pass, "within the limit")
}

func scaleOutputs(factor float32) func(*sample) {
	return func(s *sample) {
		for i := range s.y {
			s.y[i] *= factor
		}
	}
}

// Where two experts' logits are equal the device may take either; the reference follows it.
func TestCompareFollowsNearTies(t *testing.T) {
	r := oracleResult(t, 20, 20)
	l, k := r.Layer, r.Layer.Config.TopK
	width := l.Config.Width
	last := r.sample.ids[k-1] // make a twin of the last expert that the first token chose
	twin := int32(0)
	for slices.Contains(r.sample.ids[:k], twin) {
		twin++
	}
	weights := *l.MLPWeights
	weights.RouterWeight = slices.Clone(weights.RouterWeight)
	copy(weights.RouterWeight[int(twin)*width:][:width], weights.RouterWeight[int(last)*width:][:width])
	tied := *l
	tied.MLPWeights = &weights

	m, err := golden.Oracle(&weights)
	require.NoError(t, err)
	x := r.sample.x[:width]
	logits := ref.DenseLinear(m.Router, x, 1)
	ids := ref.SelectTopK(logits.Y, 1, l.Config.Experts, k)
	i := slices.IndexFunc(ids, func(e int32) bool { return e == last || e == twin })
	require.False(t, slices.Contains(ids, last) && slices.Contains(ids, twin), "the tie is at the edge of the choice")
	ids[i] = last + twin - ids[i]
	out := ref.ForwardChosen(m, x, 1, logits, ids)
	s := newSample(1, 1)
	s.take(0, 1, x, narrow(out.Out.Y), ids, narrow(out.Gates))
	a, err := compare(&tied, s)
	require.NoError(t, err)
	require.Equal(t, 1, a.NearTies)
	require.Equal(t, 0, a.SameChoices)
	require.True(t, a.Pass)
}

func TestSampleIsSpreadOverBatches(t *testing.T) {
	s := newSample(10, 4)
	row := func(first, n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(first + i)
		}
		return v
	}
	for first := 0; first < 10; first += 3 {
		n := min(3, 10-first)
		s.take(first, n, row(first, n), row(first, n), make([]int32, n), row(first, n))
	}
	require.Equal(t, []float32{0, 2, 5, 7}, s.x)
	require.Equal(t, s.x, s.y)
	require.Len(t, s.ids, 4)
	require.Equal(t, 4, s.taken)
	require.Equal(t, 10, newSample(10, 99).count)
}

func TestMeasureLoad(t *testing.T) {
	l := measureLoad([]int32{0, 0, 1, 3, -1, 9}, 4)
	require.Equal(t, []int{2, 1, 0, 1}, l.Counts)
	require.Equal(t, 4, l.Choices)
	require.Equal(t, 2.0, l.Balance)
	require.Equal(t, 1.5, l.Entropy)
	require.Equal(t, 1, l.Idle)

	even := measureLoad([]int32{0, 1, 2, 3}, 4)
	require.Equal(t, 1.0, even.Balance)
	require.Equal(t, 2.0, even.Entropy)

	one := measureLoad([]int32{2, 2, 2}, 4)
	require.Equal(t, 4.0, one.Balance)
	require.False(t, math.Signbit(one.Entropy))
	require.Equal(t, load{Counts: []int{0, 0}, Idle: 2}, measureLoad(nil, 2))
}

// A device that does not agree is reported in full, and then the command fails.
func TestDisagreementIsPublishedAndFails(t *testing.T) {
	r := oracleResult(t, 100, 100)
	r.Agreement.Pass, r.Agreement.Error = false, math.NaN()
	for _, asJSON := range []bool{false, true} {
		dir := t.TempDir()
		out, err := createPicture(dir)
		require.NoError(t, err)
		var stdout strings.Builder
		require.ErrorIs(t, r.publish(out, asJSON, &stdout), errDisagrees)
		out.discard()
		require.Contains(t, stdout.String(), "NaN")
		if asJSON {
			var j jsonReport
			require.ErrorContains(t, json.Unmarshal([]byte(stdout.String()), &j), "number", "a NaN is text")
			require.Contains(t, stdout.String(), `"pass": false`)
		}
		require.Equal(t, []string{pictureFile}, fileNames(t, dir))
	}
	r.Agreement.Pass = true
	out, err := createPicture(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, r.publish(out, false, &strings.Builder{}))
}

// A full disk leaves an older picture as it was.
func TestPictureIsNotHalfWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	path := filepath.Join(t.TempDir(), pictureFile)
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	r := oracleResult(t, 10, 10)
	img, err := figure(r).Draw(pictureScale)
	require.NoError(t, err)
	require.ErrorContains(t, writePicture(full, img), "no space left")
	require.NoError(t, full.Close())

	out := &outputPicture{path: path}
	out.file, err = os.CreateTemp(filepath.Dir(path), "")
	require.NoError(t, err)
	require.NoError(t, out.file.Close()) // every write fails from here on
	require.ErrorContains(t, out.commit(figure(r)), "cannot write the picture")
	out.discard()
	old, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(old))
	require.Equal(t, []string{pictureFile}, fileNames(t, filepath.Dir(path)))
}

func TestFigureHoldsTheRun(t *testing.T) {
	r := oracleResult(t, 100, 100)
	f := figure(r)
	require.NoError(t, f.Validate())
	require.Equal(t, r.Load.Counts, f.Load())
	require.Len(t, f.Cards, 4)
	require.Equal(t, "up", f.Cards[3].Bars[0].Label)
	require.Equal(t, 1.0, f.Cards[3].Bars[0].Share)
	require.InDelta(t, 1.0/3, f.Cards[3].Bars[1].Share, 1e-12)
	require.Contains(t, f.Cards[2].Value, "50 k tokens/s")
	require.NotContains(t, f.Device, "0: ")
	require.Contains(t, f.Footer, "random")

	for range 12 {
		r.Kernels = append(r.Kernels, kernelTime{"small", time.Microsecond})
	}
	bars := figure(r).Cards[3].Bars
	require.Len(t, bars, 9)
	require.Equal(t, "others", bars[8].Label)
	require.Equal(t, "6 µs", bars[8].Value)
	r.Kernels = nil
	require.Equal(t, []string{"The device has no timestamps."}, figure(r).Cards[3].Lines)
	var b strings.Builder
	require.NoError(t, r.writeText(&b))
	require.Contains(t, b.String(), "no timestamps")
}

func TestUnits(t *testing.T) {
	require.Equal(t, []string{"9 ns", "1.5 µs", "12.3 ms", "2 s"},
		[]string{duration(9), duration(1500), duration(12345 * time.Microsecond), duration(2 * time.Second)})
	require.Equal(t, []string{"12", "1.23 k", "69.8 k", "3.5 M", "2 G"}, []string{si(12), si(1234), si(69812), si(3.5e6), si(2e9)})
	require.Equal(t, []string{"0.5 KiB", "1.00 MiB", "3.00 GiB"}, []string{bytes(512), bytes(1 << 20), bytes(3 << 30)})
	require.Equal(t, []string{"", "▌", "█", "██", "█▊"}, []string{bar(0, 2), bar(0.25, 2), bar(0.5, 2), bar(7, 2), bar(0.875, 2)})
}
