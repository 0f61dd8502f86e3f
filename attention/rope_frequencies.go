package attention

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/internal/check"
)

// A RoPEScaling says how the frequencies of a rotary position embedding change so that a model reaches beyond the positions
// that it was first trained on. The kinds are those of transformers' rope_scaling.
type RoPEScaling uint8

// The scalings.
const (
	ScaleNone   RoPEScaling = iota // transformers' "default"
	ScaleLinear                    // every frequency divided by Factor
	ScaleYaRN                      // Peng et al., arXiv 2309.00071
	ScaleLlama3                    // Llama 3.1's
)

func (s RoPEScaling) String() string {
	if int(s) < len(scalingNames) {
		return scalingNames[s]
	}
	return fmt.Sprintf("scaling %d", uint8(s))
}

var scalingNames = [...]string{"none", "linear", "yarn", "llama3"}

// A RoPEConfig describes a rotary position embedding (Su et al., arXiv 2104.09864).
type RoPEConfig struct {
	Width       int     // rotary width: the elements of a head that turn, even; the rest of a head stays as it is
	Base        float64 // θ; 0 means 10,000
	Interleaved bool    // pairs are the elements (2i, 2i + 1) instead of (i, i + Width/2)

	// Positions is how many positions there are at most: 0 to Positions − 1. 0 means 2^20. It only bounds: the table has as
	// many as NewRoPE and Grow say.
	Positions int

	Scaling RoPEScaling
	Factor  float64 // of all scalings; with YaRN and Llama 3 the frequencies of slow pairs are divided by it

	// OriginalPositions is the context length before scaling, for YaRN and Llama 3 (original_max_position_embeddings).
	OriginalPositions int

	// YaRN: a pair that turns more than BetaFast times within OriginalPositions keeps its frequency, one that turns less than
	// BetaSlow times has it divided by Factor, between them it is blended; 0 means 32 and 1. NoTruncate keeps the two
	// bounds as they are instead of rounding them outwards to whole pairs (gpt-oss).
	BetaFast, BetaSlow float64
	NoTruncate         bool
	// AttentionFactor multiplies cos and sin; 0 means what Factor, MScale and MScaleAllDim give.
	AttentionFactor      float64
	MScale, MScaleAllDim float64

	LowFreqFactor, HighFreqFactor float64 // of Llama 3
}

// Validate reports the first field that makes no sense as a *ConfigError.
func (c RoPEConfig) Validate() error {
	const name = "RoPEConfig"
	number := func(field string, v, low float64) error {
		if v >= low && !math.IsInf(v, 0) {
			return nil
		}
		return check.Config(name, field, fmt.Sprintf("a number from %v on", low), fmt.Sprint(v))
	}
	err := check.First(
		check.InRange(name, "Width", c.Width, 2, maxRowWidth),
		check.InRange(name, "Positions", c.Positions, 0, maxPositions),
		check.InRange(name, "Scaling", int(c.Scaling), 0, len(scalingNames)-1),
	)
	switch {
	case err != nil:
		return err
	case c.Width%2 != 0:
		return check.Config(name, "Width", "even", fmt.Sprint(c.Width))
	case c.Base != 0 && !(c.Base > 1 && !math.IsInf(c.Base, 0)):
		return check.Config(name, "Base", "0 or a number above 1", fmt.Sprint(c.Base))
	case c.Scaling == ScaleNone:
		return nil
	}
	err = number("Factor", c.Factor, math.SmallestNonzeroFloat64)
	if err == nil && c.Scaling >= ScaleYaRN {
		err = check.InRange(name, "OriginalPositions", c.OriginalPositions, 1, math.MaxInt32)
	}
	if err == nil && c.Scaling == ScaleYaRN {
		err = check.First(number("BetaFast", c.BetaFast, 0), number("BetaSlow", c.BetaSlow, 0),
			number("AttentionFactor", c.AttentionFactor, 0), number("MScale", c.MScale, 0), number("MScaleAllDim", c.MScaleAllDim, 0))
	}
	if err == nil && c.Scaling == ScaleLlama3 {
		err = number("LowFreqFactor", c.LowFreqFactor, math.SmallestNonzeroFloat64)
		if err == nil && !(c.HighFreqFactor > c.LowFreqFactor && !math.IsInf(c.HighFreqFactor, 0)) {
			err = check.Config(name, "HighFreqFactor", fmt.Sprintf("a number above LowFreqFactor %v", c.LowFreqFactor),
				fmt.Sprint(c.HighFreqFactor))
		}
	}
	if err == nil {
		err = c.finite()
	}
	return err
}

// finite reports factors that leave the numbers of f32, in which the table is.
func (c RoPEConfig) finite() error {
	for _, f := range append(c.Frequencies(), c.RotationFactor(), c.SoftmaxFactor()) {
		if !(f >= 0 && f <= math.MaxFloat32) {
			return check.Config("RoPEConfig", "Factor", "one that gives finite angles and factors", fmt.Sprintf("%v, which gives %v", c.Factor, f))
		}
	}
	return nil
}

// withDefaults replaces the zeros that mean something else.
func (c RoPEConfig) withDefaults() RoPEConfig {
	for _, d := range []struct {
		field *float64
		value float64
	}{{&c.Base, 10000}, {&c.BetaFast, 32}, {&c.BetaSlow, 1}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Positions == 0 {
		c.Positions = 1 << 20
	}
	return c
}

// Frequencies returns the angle in radians by which each of the Width/2 pairs turns from one position to the next:
// Base^(−2i/Width), scaled. The configuration must be valid.
func (c RoPEConfig) Frequencies() []float64 {
	c = c.withDefaults()
	out := make([]float64, c.Width/2)
	for i := range out {
		f := math.Pow(c.Base, -2*float64(i)/float64(c.Width))
		switch c.Scaling {
		case ScaleLinear:
			f /= c.Factor
		case ScaleYaRN:
			f = c.yarn(f, i)
		case ScaleLlama3:
			f = c.llama3(f)
		}
		out[i] = f
	}
	return out
}

// yarn blends the frequency f of pair i with f/Factor (arXiv 2309.00071, section 3.2).
func (c RoPEConfig) yarn(f float64, i int) float64 {
	// The pair, as a real number, that turns so many times within the original positions.
	pairThatTurns := func(times float64) float64 {
		return float64(c.Width) * math.Log(float64(c.OriginalPositions)/(times*2*math.Pi)) / (2 * math.Log(c.Base))
	}
	low, high := pairThatTurns(c.BetaFast), pairThatTurns(c.BetaSlow)
	if !c.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(c.Width-1))
	if low == high {
		high += 0.001 // as transformers has it
	}
	slow := min(max((float64(i)-low)/(high-low), 0), 1)
	return f/c.Factor*slow + f*(1-slow)
}

// llama3 divides slow frequencies by Factor, leaves fast ones and blends in between, by how many wavelengths fit in the
// original positions.
func (c RoPEConfig) llama3(f float64) float64 {
	waves := float64(c.OriginalPositions) * f / (2 * math.Pi)
	switch {
	case waves < c.LowFreqFactor:
		return f / c.Factor
	case waves > c.HighFreqFactor:
		return f
	}
	smooth := (waves - c.LowFreqFactor) / (c.HighFreqFactor - c.LowFreqFactor)
	return (1-smooth)*f/c.Factor + smooth*f
}

// mscale is YaRN's correction of the attention logits for a factor.
func mscale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

// RotationFactor is the factor of cos and sin, transformers' attention_factor: 1 but for YaRN.
func (c RoPEConfig) RotationFactor() float64 {
	switch {
	case c.Scaling != ScaleYaRN:
		return 1
	case c.AttentionFactor != 0:
		return c.AttentionFactor
	case c.MScale != 0 && c.MScaleAllDim != 0:
		return mscale(c.Factor, c.MScale) / mscale(c.Factor, c.MScaleAllDim)
	}
	return mscale(c.Factor, 1)
}

// SoftmaxFactor is the factor of the softmax scale that DeepSeek-V3 adds to 1/√width: mscale² of MScaleAllDim, or 1 without
// one.
func (c RoPEConfig) SoftmaxFactor() float64 {
	if c.Scaling == ScaleNone || c.MScaleAllDim == 0 {
		return 1
	}
	m := mscale(c.Factor, c.MScaleAllDim)
	return m * m
}
