package picture

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sample makes a routing of a text with random but fixed choices.
func sample(text string, experts, k int) *Routing {
	rng := rand.New(rand.NewPCG(uint64(experts), uint64(k)))
	r := &Routing{
		Title: "Title", Subtitle: "Subtitle", Device: "Device", TextName: "a test", Footer: "Footer",
		Text: []rune(text), Experts: experts, K: k,
		Cards: []Card{
			{Heading: "Agreement", Value: "1.0e-07", Tone: Good, Lines: []string{"a line that is long enough to be broken into two or three"}},
			{Heading: "Times", Bars: []Bar{{"up", "1 ms", 1}, {"down", "0.5 ms", 0.5}}},
		},
	}
	for range r.Text {
		for j, e := range rng.Perm(experts)[:k] {
			r.IDs = append(r.IDs, int32(e))
			r.Gates = append(r.Gates, float32(0.9/float64(j+1)-0.01*rng.Float64()))
		}
	}
	return r
}

const someText = "Light is propagated in time,\nspending in its passage from the Sun to us\nabout seven Minutes.\n"

// probe is the colour at a logical position.
func probe(img *image.RGBA, scale, x, y float64) color.RGBA {
	return img.RGBAAt(int(math.Round(x*scale)), int(math.Round(y*scale)))
}

func drawn(t *testing.T, r *Routing, scale float64) (*image.RGBA, layout) {
	t.Helper()
	img, err := r.Draw(scale)
	require.NoError(t, err)
	return img, r.plan()
}

func TestEveryCharacterHasTheLookOfItsFirstChoice(t *testing.T) {
	for _, scale := range []float64{2, 3} {
		r := sample(someText, 32, 3)
		img, l := drawn(t, r, scale)
		require.Len(t, l.glyphs, len(r.Text))
		marks := map[Mark]int{}
		for _, g := range l.glyphs {
			x, y := margin+float64(g.column)*charWidth, l.bodyY+float64(g.row)*lineHeight
			fill, mark := ExpertLook(int(r.IDs[g.index*r.K]))
			marks[mark]++
			require.Equal(t, fill, probe(img, scale, x, y+2), "character %d, between the marks", g.index)
			head, foot := fill, fill
			if mark == HeadMark || mark == FootAndHeadMark {
				head = markInk
			}
			if mark == FootMark || mark == FootAndHeadMark {
				foot = markInk
			}
			require.Equal(t, head, probe(img, scale, x, y), "head of character %d", g.index)
			require.Equal(t, foot, probe(img, scale, x, y+lineHeight-1.5-1), "foot of character %d", g.index)
		}
		require.Len(t, marks, 4, "the sample shows every mark")
	}
}

func TestCharactersAreDrawnInTheirCells(t *testing.T) {
	r := sample("M M", 4, 1)
	img, l := drawn(t, r, 2)
	inked := func(column int) int {
		n := 0
		x0, y0 := (margin+float64(column)*charWidth)*2, l.bodyY*2
		for y := y0; y < y0+2*lineHeight; y++ {
			for x := x0; x < x0+2*charWidth; x++ {
				if img.RGBAAt(int(x), int(y)) == ink {
					n++
				}
			}
		}
		return n
	}
	require.Greater(t, inked(0), 20)
	require.Equal(t, 0, inked(1), "a space")
	require.InDelta(t, inked(0), inked(2), 12, "the same letter twice, half a pixel apart at most")
	require.Equal(t, 0, inked(3), "nothing after the text")
}

// runLength counts the pixels of one colour from a logical position to the right.
func runLength(img *image.RGBA, scale, x, y float64, fill color.RGBA) int {
	n := 0
	for px := int(math.Round(x * scale)); img.RGBAAt(px, int(math.Round(y*scale))) == fill; px++ {
		n++
	}
	return n
}

func TestLoadBarsHaveTheLengthOfTheLoad(t *testing.T) {
	r := sample(strings.Repeat("a", 400), 4, 1)
	for s := range r.IDs {
		r.IDs[s] = []int32{0, 1, 1, 1, 1, 1, 1, 1, 3, 3}[s%10] // 10 %, 70 %, none, 20 %
	}
	require.Equal(t, []int{40, 280, 0, 80}, r.Load())
	img, l := drawn(t, r, 2)
	require.Equal(t, 20.0, l.axisStep)
	require.Equal(t, 80.0, l.axisMax)
	x, full := l.loadBars()
	even := x + full*25/80 // the dashed line; read above it or between its dashes
	for e, percent := range []float64{10, 70, 0, 20} {
		fill, _ := ExpertLook(e)
		y := l.bodyY + float64(e)*barPitch + barPitch/2
		want := 2 * full * percent / 80
		got := runLength(img, 2, x, y, fill)
		if x+full*percent/80 > even {
			got += runLength(img, 2, even+1, y, fill) + 3 // the line is three pixels wide and ends the first run
		}
		require.InDelta(t, want, got, 2, "expert %d", e)
	}
}

func TestHeatMapShowsGatesAndOnlyChosenExperts(t *testing.T) {
	r := sample(someText, 16, 4)
	img, l := drawn(t, r, 2)
	require.Equal(t, 92, l.heatColumns)
	for token := range l.heatColumns {
		gates := map[int]float32{}
		for j := range r.K {
			gates[int(r.IDs[token*r.K+j])] = r.Gates[token*r.K+j]
		}
		for e := range r.Experts {
			want := empty
			if g, chosen := gates[e]; chosen {
				want = Heat((float64(g) - l.low) / (l.high - l.low))
			}
			got := probe(img, 2, l.heatX+(float64(token)+0.4)*heatColumn, l.heatY+(float64(e)+0.4)*l.heatRow)
			require.Equal(t, want, got, "token %d, expert %d", token, e)
		}
	}
}

func TestTheScaleSpansTheGatesShown(t *testing.T) {
	r := sample(someText, 4, 2)
	for s := range r.Gates {
		r.Gates[s] = 0.5
	}
	r.Gates[3], r.Gates[5], r.Gates[7] = 0.25, 0.75, float32(math.NaN())
	low, high := r.gateRange(10)
	require.Equal(t, 0.25, low)
	require.Equal(t, 0.75, high)
	low, high = r.gateRange(1)
	require.Equal(t, 0.5, low)
	require.Greater(t, high, low, "one value still has a scale")
	for s := range r.Gates {
		r.Gates[s] = float32(math.NaN())
	}
	low, high = r.gateRange(10)
	require.Equal(t, [2]float64{0, 1}, [2]float64{low, high})
}

func TestUnroutedAndNaN(t *testing.T) {
	r := sample("ab", 4, 2)
	r.IDs[0], r.IDs[1] = -1, -1
	r.Gates[2] = float32(math.NaN())
	img, l := drawn(t, r, 2)
	require.Equal(t, unrouted, probe(img, 2, margin+1, l.bodyY+2))
	require.Equal(t, 2, sum(r.Load()))
	for e := range 4 {
		require.Equal(t, empty, probe(img, 2, l.heatX+0.4*heatColumn, l.heatY+(float64(e)+0.4)*l.heatRow))
	}
	e := float64(r.IDs[2])
	require.Equal(t, unrouted, probe(img, 2, l.heatX+1.4*heatColumn, l.heatY+(e+0.4)*l.heatRow))
}

func sum(values []int) (n int) {
	for _, v := range values {
		n += v
	}
	return n
}

// Whatever the data, the margins stay free: nothing runs off the picture.
func TestNothingLeavesThePicture(t *testing.T) {
	long := strings.Repeat("a very long text that has to be cut ", 20)
	cases := map[string]*Routing{
		"one expert":         sample("x", 1, 1),
		"long line":          sample(strings.Repeat("word ", 2000), 8, 2),
		"line breaks":        sample(strings.Repeat("\n", 100), 8, 2),
		"many experts":       sample(someText, 19, 4),
		"the most experts":   sample(someText, 1024, 64),
		"all of the experts": sample(someText, 24, 24),
		"other scripts":      sample("Оптика 光学 \t\x00 \U0001f308 é", 8, 2),
	}
	for _, r := range []*Routing{sample(someText, 16, 4), sample("y", 3, 1)} {
		r.Title, r.Subtitle, r.Device, r.TextName, r.Footer = long, long, long, long, long
		r.Cards = append(r.Cards, Card{Heading: long, Value: long, Lines: []string{strings.Repeat("m", 300)}, Bars: []Bar{{long, "9 ms", 7}, {"x", "0", math.Inf(-1)}}})
		cases[fmt.Sprintf("long texts %d", len(cases))] = r
	}
	for name, r := range cases {
		t.Run(name, func(t *testing.T) {
			img, l := drawn(t, r, 1)
			size := img.Bounds().Size()
			require.Equal(t, int(width), size.X)
			require.Equal(t, int(math.Ceil(l.height)), size.Y)
			for y := range size.Y {
				for x := range size.X {
					if x < margin-2 || float64(x) > width-margin+2 || y < 12 || y > size.Y-10 {
						require.Equal(t, paper, img.RGBAAt(x, y), "at %d,%d", x, y)
					}
				}
			}
		})
	}
}

func TestOnlyTheBusiestOfManyExpertsHaveABar(t *testing.T) {
	names := sample(someText, loadRows, 2).listed()
	require.Len(t, names, loadRows)
	require.IsIncreasing(t, names)

	r := sample(strings.Repeat(someText, 20), 64, 2)
	names = r.listed()
	require.Len(t, names, loadRows)
	load := r.Load()
	least, listed, others := load[names[len(names)-1]], map[int]bool{}, 0
	for _, e := range names {
		listed[e] = true
	}
	for e, n := range load {
		if !listed[e] {
			require.LessOrEqual(t, n, least, "expert %d", e)
			others += n
		}
	}
	require.Equal(t, fmt.Sprintf("the 46 other experts: %.1f %%", 100*float64(others)/float64(len(r.IDs))), r.legend(names)[0])
}

func TestLegendNamesTheMarksInUse(t *testing.T) {
	legend := func(experts int) []string {
		r := sample(someText, experts, 1)
		all := make([]int, experts)
		return r.legend(all)
	}
	require.Equal(t, []string{"dashed line: even load, 12.5 %"}, legend(8))
	require.Equal(t, []string{"dashed line: even load, 11.11 %", "dark foot: E8 to E8"}, legend(9))
	require.Equal(t, []string{"dashed line: even load, 3.125 %", "dark foot: E8 to E15", "dark head: E16 to E23",
		"dark foot and head: E24 to E31"}, legend(32))
	require.Equal(t, "dark foot and head: E24 to E31, then again", legend(33)[3])
}

func TestWrap(t *testing.T) {
	require.Equal(t, []glyph{{0, 0, 0}, {1, 1, 0}, {2, 2, 0}, {3, 0, 1}}, wrap([]rune("abcd"), 3, 5))
	require.Equal(t, []glyph{{0, 0, 0}, {1, 1, 0}, {2, 0, 1}}, wrap([]rune("a\nb"), 3, 5))
	require.Equal(t, []glyph{{0, 0, 0}, {1, 1, 0}, {2, 0, 1}, {3, 0, 2}}, wrap([]rune("ab\nc"), 2, 5), "a break after a full line")
	require.Equal(t, []glyph{{0, 0, 0}, {1, 0, 1}}, wrap([]rune("\n\n\n"), 2, 2), "no more rows")
	require.Equal(t, []glyph{{0, 0, 0}, {1, 1, 0}}, wrap([]rune("abc"), 2, 1))
}

func TestNiceStep(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, math.NaN(): 1, 0.9: 1, 1: 1, 1.1: 2, 4.2: 5, 5.1: 10, 25: 50, 0.03: 0.05} {
		require.InDelta(t, want, niceStep(v), 1e-12, "%g", v)
	}
}

func TestDrawRefusesInconsistentData(t *testing.T) {
	for name, spoil := range map[string]func(*Routing){
		"no text to show":         func(r *Routing) { r.Text = nil },
		"0 choices":               func(r *Routing) { r.K = 0 },
		"5 choices among 4":       func(r *Routing) { r.K = 5 },
		"expert ids for":          func(r *Routing) { r.IDs = r.IDs[1:] },
		"gates for":               func(r *Routing) { r.Gates = append(r.Gates, 1) },
		"slot 2 holds expert 4":   func(r *Routing) { r.IDs[2] = 4 },
		"slot 0 holds expert -2 ": func(r *Routing) { r.IDs[0] = -2 },
	} {
		r := sample(someText, 4, 2)
		spoil(r)
		_, err := r.Draw(2)
		require.ErrorContains(t, err, name)
	}
	for _, scale := range []float64{0, -1, 100, math.NaN()} {
		_, err := sample(someText, 4, 2).Draw(scale)
		require.ErrorContains(t, err, "scale")
	}
}

func TestDrawIsRepeatable(t *testing.T) {
	first, _ := drawn(t, sample(someText, 16, 4), 1)
	second, _ := drawn(t, sample(someText, 16, 4), 1)
	require.Equal(t, first.Pix, second.Pix)
	other := sample(someText, 16, 4)
	other.Title = "Titles"
	third, _ := drawn(t, other, 1)
	require.NotEqual(t, first.Pix, third.Pix)
}

func TestDrawingDoesNotChangeTheData(t *testing.T) {
	r, same := sample(someText, 64, 4), sample(someText, 64, 4)
	drawn(t, r, 1)
	require.Equal(t, same.IDs, r.IDs)
	require.Equal(t, same.Gates, r.Gates)
	require.Equal(t, same.Text, r.Text)
}
