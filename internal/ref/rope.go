package ref

import (
	"fmt"
	"math"
)

// A RoPE rotates pairs of elements of each head by angles that grow with the position (arXiv 2104.09864, section 3.2.2):
//
//	(a, b) → Factor·(a·cos θ − b·sin θ, a·sin θ + b·cos θ),  θ = position·frequency of the pair
//
// Of a head's elements the Width from First on are rotated. Pair i of them is (i, i + Width/2), or (2i, 2i+1) when
// Interleaved.
type RoPE struct {
	First, Width int // Width is even
	Interleaved  bool
	Base         float64
	Scaling      RoPEScaling
}

// A RoPEScalingKind names a way to stretch the frequencies over a longer context than was trained on.
type RoPEScalingKind uint8

const (
	NoScaling     RoPEScalingKind = iota
	LinearScaling                 // frequencies divided by Factor (arXiv 2306.15595)
	YaRNScaling                   // low frequencies divided, high ones kept, a ramp between (arXiv 2309.00071, section 3)
	Llama3Scaling                 // the same with a ramp over wavelengths (arXiv 2407.21783, section 3.4.3; Llama 3.1's code)
)

// A RoPEScaling holds the parameters of one kind, named as configurations name them.
type RoPEScaling struct {
	Kind   RoPEScalingKind
	Factor float64

	OriginalLength float64 // positions trained on; YaRN and Llama3

	BetaFast, BetaSlow   float64 // YaRN: rotations over OriginalLength above which a frequency is kept, below which divided
	KeepFractions        bool    // YaRN: the ends of the ramp are not rounded outwards to whole pairs
	MScale, MScaleAllDim float64 // YaRN: both given set the attention factor to their quotient
	AttentionFactor      float64 // YaRN: multiplies the rotated elements; 0 derives it

	LowFrequencyFactor, HighFrequencyFactor float64 // Llama3: the ramp's ends are OriginalLength divided by them
}

// Frequencies returns radians per position of each pair, [Width/2], and the factor that multiplies rotated elements.
func (r RoPE) Frequencies() (frequencies []float64, factor float64) {
	frequencies = make([]float64, r.Width/2)
	s := r.Scaling
	for i := range frequencies {
		f := math.Pow(r.Base, -2*float64(i)/float64(r.Width))
		switch s.Kind {
		case NoScaling:
		case LinearScaling:
			f /= s.Factor
		case YaRNScaling:
			kept := 1 - r.yarnRamp(i)
			f = f*kept + f/s.Factor*(1-kept)
		case Llama3Scaling:
			f = s.llama3(f)
		default:
			panic(fmt.Sprintf("ref.RoPE: scaling %d", s.Kind))
		}
		frequencies[i] = f
	}
	return frequencies, s.attentionFactor()
}

// yarnRamp is 0 for a pair that keeps its frequency and 1 for one whose frequency is divided.
func (r RoPE) yarnRamp(pair int) float64 {
	s := r.Scaling
	// The pair, not whole, that turns n times over the original length.
	pairOf := func(turns float64) float64 {
		return float64(r.Width) * math.Log(s.OriginalLength/(turns*2*math.Pi)) / (2 * math.Log(r.Base))
	}
	low, high := pairOf(s.BetaFast), pairOf(s.BetaSlow)
	if !s.KeepFractions {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(r.Width-1))
	if low == high {
		high += 0.001
	}
	return min(max((float64(pair)-low)/(high-low), 0), 1)
}

// llama3 stretches one frequency.
func (s RoPEScaling) llama3(f float64) float64 {
	turns := s.OriginalLength * f / (2 * math.Pi)
	switch {
	case turns < s.LowFrequencyFactor:
		return f / s.Factor
	case turns > s.HighFrequencyFactor:
		return f
	}
	smooth := (turns - s.LowFrequencyFactor) / (s.HighFrequencyFactor - s.LowFrequencyFactor)
	return (1-smooth)*f/s.Factor + smooth*f
}

func (s RoPEScaling) attentionFactor() float64 {
	switch {
	case s.Kind != YaRNScaling:
		return 1
	case s.AttentionFactor != 0:
		return s.AttentionFactor
	case s.MScale != 0 && s.MScaleAllDim != 0:
		return YaRNMScale(s.Factor, s.MScale) / YaRNMScale(s.Factor, s.MScaleAllDim)
	}
	return YaRNMScale(s.Factor, 1)
}

// YaRNMScale is 0.1·mscale·ln(factor) + 1, and 1 for factors up to 1 (arXiv 2309.00071, equation 22).
func YaRNMScale(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*mscale*math.Log(factor) + 1
}

// Rotate applies the rotation to x [T,heads,width] at positions [T]. Abs is such that angles, or their sines and cosines,
// off by ε change an element by at most ε·Abs.
func Rotate[F Float](r RoPE, x []F, positions []int32, heads, width int) Result {
	return r.rotate("Rotate", Widen(x), positions, heads, width, 1)
}

// RotateBackward differentiates Rotate: it turns dy [T,heads,width] by the opposite angles, with the same factor.
func RotateBackward[D Float](r RoPE, dy []D, positions []int32, heads, width int) Result {
	return r.rotate("RotateBackward", Widen(dy), positions, heads, width, -1)
}

func (r RoPE) rotate(op string, x []float64, positions []int32, heads, width int, sign float64) Result {
	requireLen(op, "x", len(x), len(positions)*heads*width)
	if r.Width%2 != 0 || r.First < 0 || r.First+r.Width > width {
		panic(fmt.Sprintf("ref.%s: elements %d to %d of a head of %d", op, r.First, r.First+r.Width, width))
	}
	frequencies, factor := r.Frequencies()
	res := newResult(len(x))
	for i, v := range x {
		add(&res, i, v)
	}
	for row := range len(positions) * heads {
		position := float64(positions[row/heads])
		for i, f := range frequencies {
			a, b := row*width+r.First+i, row*width+r.First+i+r.Width/2
			if r.Interleaved {
				a, b = row*width+r.First+2*i, row*width+r.First+2*i+1
			}
			sin, cos := math.Sincos(sign * position * f)
			res.Y[a] = factor * (x[a]*cos - x[b]*sin)
			res.Y[b] = factor * (x[a]*sin + x[b]*cos)
			res.Abs[a] = math.Abs(factor) * (math.Abs(x[a]) + math.Abs(x[b]))
			res.Abs[b] = res.Abs[a]
		}
	}
	return res
}
