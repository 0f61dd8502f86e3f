package picture

import (
	"image/color"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRectanglesMeetWithoutSeam(t *testing.T) {
	for _, scale := range []float64{1, 1.5, 2, 3} {
		c := NewCanvas(30, 2, scale, paper)
		for i := range 40 {
			c.Rect(float64(i)*0.75, 0, 0.75, 2, []color.RGBA{ink, soft}[i%2])
		}
		for x := range c.Image().Bounds().Dx() {
			require.NotEqual(t, paper, c.Image().RGBAAt(x, 1), "scale %g, pixel %d", scale, x)
		}
	}
}

func TestFitAndWrapKeepWithinTheWidth(t *testing.T) {
	c := NewCanvas(10, 10, 2, paper)
	text := "the busiest expert's share over an even share"
	require.Equal(t, text, c.Fit(text, Regular, 12, 1000))
	for w := 0.0; w < 300; w += 7 {
		fitted := c.Fit(text, Regular, 12, w)
		require.LessOrEqual(t, c.Width(fitted, Regular, 12), w)
		if fitted != "" && fitted != text {
			require.True(t, strings.HasPrefix(text, strings.TrimSuffix(fitted, "…")))
		}
		for _, line := range c.Wrap(text, Bold, 12, w) {
			require.LessOrEqual(t, c.Width(line, Bold, 12), w)
		}
	}
	require.Equal(t, text, strings.Join(c.Wrap(text, Regular, 12, 120), " "), "wrapping loses no word")
	require.Empty(t, c.Wrap("  ", Regular, 12, 100))
}

func TestWidthDoesNotDependOnTheScale(t *testing.T) {
	small, large := NewCanvas(1, 1, 1, paper), NewCanvas(1, 1, 4, paper)
	for style := Regular; style <= MonoBold; style++ {
		require.InDelta(t, large.Width(someText, style, 13), small.Width(someText, style, 13), 1)
	}
	require.InDelta(t, 10*small.Width("m", Mono, 13), small.Width("iiiiiiiiii", Mono, 13), 0.5, "every Mono glyph is as wide as the next")
}

func TestAlign(t *testing.T) {
	for align, at := range map[Align]float64{Left: 10, Center: 25, Right: 40} {
		c := NewCanvas(50, 20, 2, paper)
		w := c.Width("HHHH", Mono, 12)
		c.Text(at, 15, "HHHH", Mono, 12, align, ink)
		left, right := 1000, 0
		img := c.Image()
		for y := range img.Bounds().Dy() {
			for x := range img.Bounds().Dx() {
				if img.RGBAAt(x, y) == ink {
					left, right = min(left, x), max(right, x)
				}
			}
		}
		start := at - w*[]float64{0, 0.5, 1}[align]
		require.InDelta(t, 2*start, left, 4)
		require.InDelta(t, 2*(start+w), right, 4)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 12345: "12,345", 123456: "123,456", 1234567: "1,234,567"} {
		require.Equal(t, want, Thousands(n))
	}
}
