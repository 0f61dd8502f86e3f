package dashboard

import (
	"fmt"
	"image"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// drawn draws a snapshot for the newest state of a dashboard.
func drawn(d *Dashboard, s *Snapshot, width, height int, scale float32) *image.RGBA {
	c := canvas.New(width, height, scale)
	d.Draw(c, s)
	return c.Raster()
}

// count is how many pixels of an image have a colour.
func count(img *image.RGBA, want canvas.Color) int {
	r, g, b, _ := want.Channels()
	n := 0
	for i := 0; i < len(img.Pix); i += 4 {
		if img.Pix[i] == r && img.Pix[i+1] == g && img.Pix[i+2] == b {
			n++
		}
	}
	return n
}

// Whatever the size and however little or much there is to show, nothing fails, and the page's margin stays free.
func TestEverySizeIsDrawn(t *testing.T) {
	failed := sample(40, 8, 2)
	failed.State, failed.Problem = Failed, "the device was lost at step 41: vk: device lost; the run as of step 30 is in out/vkmoe-demo.safetensors"
	nan := sample(20, 8, 2)
	nan.Curves[0].Train[3].Value, nan.Curves[0].HeldOut[0].Value = math.NaN(), math.Inf(1)
	nan.Routers[0].Gates[0], nan.Routers[0].Gates[1] = float32(math.NaN()), float32(math.NaN())
	reading := sample(0, 64, 8)
	reading.State, reading.Curves, reading.Times = Reading, nil, nil
	for name, s := range map[string]*Snapshot{
		"empty": {}, "first": sample(0, 8, 2), "some": sample(120, 8, 2), "many experts": sample(30, 128, 6), "one expert": sample(30, 1, 1),
		"failed": failed, "not finite": nan, "reading": reading,
	} {
		for _, size := range []struct {
			w, h  int
			scale float32
		}{{1280, 800, 1}, {1400, 1000, 2}, {700, 500, 1}, {300, 200, 1}, {1, 1, 1}, {0, 0, 1}} {
			d := New()
			d.Move(float64(size.w)/3, float64(size.h)/2)
			img := drawn(d, s, size.w, size.h, size.scale)
			require.Equal(t, image.Rect(0, 0, size.w, size.h), img.Rect, name)
			for y := 0; y < size.h && size.w > 100 && size.h > 300; y++ {
				if img.RGBAAt(3, y) != img.RGBAAt(0, 0) {
					t.Fatalf("%s: something at the edge, line %d of %dx%d", name, y, size.w, size.h)
				}
			}
		}
	}
}

func TestDrawingIsRepeatable(t *testing.T) {
	s := sample(60, 8, 2)
	require.Equal(t, drawn(New(), s, 900, 700, 1).Pix, drawn(New(), s, 900, 700, 1).Pix)
	other := sample(61, 8, 2)
	require.NotEqual(t, drawn(New(), s, 900, 700, 1).Pix, drawn(New(), other, 900, 700, 1).Pix)
}

// The ink of a group in the stacked bars is in proportion to its time.
func TestBarsHaveTheirShare(t *testing.T) {
	s := sample(60, 8, 2)
	for i := range s.Times {
		s.Times[i].Seconds = [Groups]float64{LinearForward: 0.1, LinearDX: 0.2, LinearDW: 0.3, Attention: 0.1, Routing: 0.05, Other: 0.25}
	}
	s.Memory = Memory{} // the same colours
	img := drawn(New(), s, 2560, 1600, 2)
	legend := 18 * 18
	unit := float64(count(img, groupColors[LinearForward]) - legend)
	require.Greater(t, unit, 500.0)
	for g, want := range map[int]float64{LinearDX: 2, LinearDW: 3, Attention: 1, Routing: 0.5, Other: 2.5} {
		require.InDelta(t, want, float64(count(img, groupColors[g])-legend)/unit, 0.12*want, GroupNames[g])
	}
}

// Each token is drawn in the colour of the expert that the chosen choice has.
func TestTextIsColouredByTheChosenChoice(t *testing.T) {
	s := sample(10, 8, 2)
	s.Routers = s.Routers[:2]
	for t := range s.Text {
		s.Routers[1].IDs[2*t], s.Routers[1].IDs[2*t+1] = 3, 5
		s.Routers[1].Gates[2*t], s.Routers[1].Gates[2*t+1] = 0.4, 0.6
		s.Routers[0].IDs[2*t], s.Routers[0].IDs[2*t+1] = 0, 1
		s.Routers[0].Gates[2*t], s.Routers[0].Gates[2*t+1] = 0.6, 0.4
	}
	d := New()
	share := func() (list [8]int) {
		img := drawn(d, s, 1280, 800, 1)
		for e, fill := range expertColors {
			list[e] = count(img, fill)
		}
		return list
	}
	most := func(list [8]int, expert int) {
		t.Helper()
		for e, n := range list {
			if e != expert {
				require.Less(t, 20*n, list[expert], "expert %d against %d", e, expert)
			}
		}
	}
	most(share(), 5) // the largest gate, whatever its slot
	require.Equal(t, Action{}, d.Key("right"))
	most(share(), 3)
	d.Key("up")
	most(share(), 1)
	d.Key("left")
	most(share(), 0)
}

func TestHoverTells(t *testing.T) {
	s := sample(100, 8, 2)
	d := New()
	found := map[string]bool{}
	c := canvas.New(1280, 800, 1)
	for y := 90.0; y < 800; y += 37 {
		for x := 60.0; x < 1280; x += 59 {
			d.Move(x, y)
			c.Reset(1280, 800, 1)
			d.Draw(c, s)
			for _, line := range d.tip {
				for _, word := range []string{"gate", "held out:", "ParallelLinear dX", "times an even share"} {
					if strings.Contains(line, word) {
						found[word] = true
					}
				}
			}
		}
	}
	require.Len(t, found, 4, fmt.Sprint(found))
}

func TestKeysAsk(t *testing.T) {
	d := New()
	s := sample(50, 8, 2)
	drawn(d, s, 1280, 800, 1)
	for key, want := range map[string]Action{
		"space": {Kind: Pause}, "s": {Kind: Step}, "+": {Kind: SetK, N: 3}, "-": {Kind: SetK, N: 1}, "5": {Kind: SetK, N: 5}, "9": {},
		"d": {Kind: ToggleDense}, "[": {Kind: SetSpeed, N: 75}, "]": {Kind: SetSpeed, N: 100}, "t": {Kind: NextDType}, "g": {Kind: NextDevice},
		"ctrl+s": {Kind: Save}, "l": {Kind: Load}, "c": {Kind: Report}, "q": {Kind: Quit}, "escape": {Kind: Quit}, "f12": {}, "": {},
	} {
		require.Equal(t, want, d.Key(key), key)
	}
	require.Equal(t, 1, d.Router)
	d.Scroll(-1)
	require.Equal(t, 2, d.Router)
	d.Scroll(1)
	d.Key("up")
	d.Key("up")
	require.Equal(t, 7, d.Router, "from the first to the last")
}

func TestTypingAPrompt(t *testing.T) {
	d := New()
	drawn(d, sample(50, 8, 2), 1280, 800, 1)
	require.Equal(t, Action{}, d.Key("p"))
	require.True(t, d.Typing())
	d.Type('p') // the key's own character
	for _, r := range "Light s" {
		d.Key(string(r))
		d.Type(r)
	}
	d.Type('\n')
	d.Key("backspace")
	d.Key("backspace")
	img := drawn(d, sample(50, 8, 2), 1280, 800, 1)
	require.Greater(t, count(img, canvas.RGB(0xdbeafe)), 1000, "the line that is typed in")
	require.Equal(t, Action{Kind: Write, Text: "Light"}, d.Key("enter"))
	require.False(t, d.Typing())
	d.Key("p")
	require.Equal(t, Action{}, d.Key("escape"))
	require.False(t, d.Typing())
	d.Key("enter")
	require.True(t, d.Typing())
	require.Equal(t, Action{}, d.Key("enter"), "nothing was typed")
}

// Every key that is shown can be clicked too, and does what its key does.
func TestClicks(t *testing.T) {
	d := New()
	s := sample(50, 8, 2)
	got := map[Kind]bool{}
	routers := map[int]bool{}
	for y := 0.0; y < 800; y += 9 {
		for x := 0.0; x < 1280; x += 17 {
			if y == 0 && x == 0 {
				drawn(d, s, 1280, 800, 1)
			}
			got[d.Click(x, y).Kind] = true
			routers[d.Router] = true
			d.typing = false
		}
	}
	for _, kind := range []Kind{Pause, Step, SetK, ToggleDense, SetSpeed, NextDType, NextDevice, Save, Load, Report, Quit} {
		require.True(t, got[kind], "kind %d", kind)
	}
	require.Len(t, routers, 8)
	require.Equal(t, Action{}, d.Click(-5, 3))
}

func TestMessages(t *testing.T) {
	d := New()
	s := sample(5, 8, 2)
	before := drawn(d, s, 1280, 800, 1)
	d.Message("the report is on the clipboard")
	require.NotEqual(t, before.Pix, drawn(d, s, 1280, 800, 1).Pix)
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00 ", 1.234: "1.23 ", 56.78: "56.8 ", 999: "999 ", 1480: "1480 ", 12345: "12.3 k", 9.7e9: "9.70 G", 2e12: "2.00 T"} {
		require.Equal(t, want, si(v))
	}
	for v, want := range map[uint64]string{5: "5.00 B", 61 << 20: "61.0 MiB", 5 << 30: "5.00 GiB", 1000 << 20: "0.98 GiB"} {
		require.Equal(t, want, size(v))
	}
	for v, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", -123: "-123"} {
		require.Equal(t, want, thousands(v))
	}
	require.Equal(t, "0.5", axis{step: 0.5}.label(0.5))
	require.Equal(t, "20", axis{step: 10}.label(20))
	a := newAxis(0.3, 4.1, 4, 100, 0)
	require.Equal(t, [3]float64{0, 5, 1}, [3]float64{a.low, a.high, a.step})
	require.InDelta(t, 80, a.at(1), 1e-9)
	var ticks []float64
	a.ticks(func(v float64) { ticks = append(ticks, v) })
	require.Equal(t, []float64{0, 1, 2, 3, 4, 5}, ticks)
	for v, want := range map[float64]float64{0: 1, math.NaN(): 1, 0.9: 1, 1.1: 2, 4.2: 5, 5.1: 10, 0.03: 0.05} {
		require.InDelta(t, want, niceStep(v), 1e-12)
	}
}

func TestSmoothingAndTheNearestPoint(t *testing.T) {
	points := []Point{{1, 4}, {2, math.NaN()}, {3, 2}, {9, math.Inf(1)}}
	require.Equal(t, []Point{{1, 4}, {3, 3}}, smooth(points, 2))
	p, ok := near(points, 2.9)
	require.True(t, ok)
	require.Equal(t, 3, p.Step)
	_, ok = near(nil, 1)
	require.False(t, ok)
}

func TestRanking(t *testing.T) {
	r := Router{K: 3, Gates: []float32{0, 0, 0, 0.2, 0.5, 0.3}}
	require.Equal(t, []int{1, 2, 0}, ranked(r, 1))
	require.Equal(t, []int{0, 1, 2}, ranked(r, 0))
}

func TestPalette(t *testing.T) {
	light, text := heat(0)
	require.Equal(t, heatStops[0], light)
	require.Equal(t, ink, text)
	dark, text := heat(7)
	require.Equal(t, heatStops[4], dark)
	require.Equal(t, paper, text)
	none, _ := heat(math.NaN())
	require.Equal(t, unrouted, none)
	looks := map[string]bool{}
	for e := range 32 {
		fill, m := expertLook(e)
		looks[fmt.Sprint(fill, m)] = true
	}
	require.Len(t, looks, 32)
	fill, _ := expertLook(-1)
	require.Equal(t, unrouted, fill)
}
