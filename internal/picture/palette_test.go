package picture

import (
	"image/color"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// linear turns one sRGB component into linear light (IEC 61966-2-1).
func linear(v uint8) float64 {
	s := float64(v) / 255
	if s <= 0.04045 {
		return s / 12.92
	}
	return math.Pow((s+0.055)/1.055, 2.4)
}

func linearRGB(c color.RGBA) [3]float64 { return [3]float64{linear(c.R), linear(c.G), linear(c.B)} }

func multiply(m [3][3]float64, v [3]float64) (out [3]float64) {
	for i := range m {
		for j := range v {
			out[i] += m[i][j] * v[j]
		}
	}
	return out
}

// lab turns linear sRGB into CIE L*a*b* under D65.
func lab(v [3]float64) [3]float64 {
	xyz := multiply([3][3]float64{{0.4124, 0.3576, 0.1805}, {0.2126, 0.7152, 0.0722}, {0.0193, 0.1192, 0.9505}}, v)
	f := func(t float64) float64 {
		if t > 216.0/24389 {
			return math.Cbrt(t)
		}
		return (24389.0/27*t + 16) / 116
	}
	x, y, z := f(xyz[0]/0.9505), f(xyz[1]), f(xyz[2]/1.089)
	return [3]float64{116*y - 16, 500 * (x - y), 200 * (y - z)}
}

func distance(a, b [3]float64) float64 {
	return math.Sqrt((a[0]-b[0])*(a[0]-b[0]) + (a[1]-b[1])*(a[1]-b[1]) + (a[2]-b[2])*(a[2]-b[2]))
}

// visions are the complete colour deficiencies after Machado, Oliveira and Fernandes (2009), as matrices on linear RGB.
var visions = map[string][3][3]float64{
	"normal":       {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"protanopia":   {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
	"deuteranopia": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
	"tritanopia":   {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
}

func TestExpertColorsStayApartInEveryVision(t *testing.T) {
	const justDistinct = 8 // ΔE*ab; 2.3 is the just noticeable difference
	for name, vision := range visions {
		for i, a := range experts {
			for j, b := range experts[:i] {
				d := distance(lab(multiply(vision, linearRGB(a))), lab(multiply(vision, linearRGB(b))))
				require.Greater(t, d, float64(justDistinct), "%s: experts %d and %d", name, j, i)
			}
		}
	}
}

// contrast is the ratio of WCAG 2.
func contrast(a, b color.RGBA) float64 {
	luminance := func(c color.RGBA) float64 {
		v := linearRGB(c)
		return 0.2126*v[0] + 0.7152*v[1] + 0.0722*v[2]
	}
	la, lb := luminance(a), luminance(b)
	return (math.Max(la, lb) + 0.05) / (math.Min(la, lb) + 0.05)
}

func TestTextIsLegibleOnEveryBackground(t *testing.T) {
	for e, c := range experts {
		require.GreaterOrEqual(t, contrast(ink, c), 4.5, "expert %d", e)
	}
	for _, c := range []color.RGBA{paper, unrouted, empty} {
		require.GreaterOrEqual(t, contrast(ink, c), 4.5)
	}
	for _, c := range []color.RGBA{soft, good, bad} {
		require.GreaterOrEqual(t, contrast(c, paper), 4.5)
	}
}

func TestHeatDarkensSteadily(t *testing.T) {
	before := lab(linearRGB(Heat(0)))[0]
	require.Greater(t, distance(lab(linearRGB(Heat(0))), lab(linearRGB(empty))), 8.0, "the least gate must differ from no gate")
	for i := 1; i <= 20; i++ {
		now := lab(linearRGB(Heat(float64(i) / 20)))[0]
		require.Less(t, now, before-1, "step %d", i)
		before = now
	}
	require.Equal(t, Heat(0), Heat(-3))
	require.Equal(t, Heat(1), Heat(math.Inf(1)))
	require.Equal(t, unrouted, Heat(math.NaN()))
}

func TestExpertLooksAreDistinctUpToTheLimit(t *testing.T) {
	type look struct {
		fill color.RGBA
		mark Mark
	}
	seen := map[look]int{}
	for e := range DistinctExperts {
		fill, mark := ExpertLook(e)
		other, taken := seen[look{fill, mark}]
		require.False(t, taken, "experts %d and %d look alike", other, e)
		seen[look{fill, mark}] = e
	}
	first, mark := ExpertLook(0)
	again, markAgain := ExpertLook(DistinctExperts)
	require.Equal(t, first, again)
	require.Equal(t, mark, markAgain)
	fill, mark := ExpertLook(-1)
	require.Equal(t, unrouted, fill)
	require.Equal(t, NoMark, mark)
}
