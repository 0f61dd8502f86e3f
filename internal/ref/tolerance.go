package ref

import "math"

// A DType is a storage type of tensors; sums are in f32 whatever the storage.
type DType uint8

// The float storage types.
const (
	F32 DType = iota
	F16
	BF16
)

// DTypes lists every storage type.
var DTypes = []DType{F32, F16, BF16}

func (d DType) String() string { return [...]string{"f32", "f16", "bf16"}[d] }

// UnitF32 is the largest relative error of one f32 addition or multiplication. Vulkan asks for a correctly rounded
// result but leaves the rounding direction to the implementation, so it is a whole ulp, not half of one.
const UnitF32 = 0x1p-23

// Smallest normal values: below them a device may flush to zero.
const (
	tinyF32 = 0x1p-126
	tinyF16 = 0x1p-14
)

// Storage returns the relative error of storing a result: 0 for f32, where the sum already is what is stored, and half an
// ulp for the 16-bit types, which are rounded to nearest even.
func (d DType) Storage() float64 {
	switch d {
	case F16:
		return 0x1p-11
	case BF16:
		return 0x1p-8
	}
	return 0
}

// tiny is the largest error of one underflow when storing.
func (d DType) tiny() float64 {
	if d == F16 {
		return tinyF16
	}
	return tinyF32
}

// Gamma is γ_n = n·u/(1 − n·u) with u = UnitF32: the relative growth of n roundings (Higham, Accuracy and Stability of
// Numerical Algorithms, lemma 3.1). It is +Inf where n·u ≥ 1.
func Gamma(n int) float64 {
	nu := float64(n) * UnitF32
	if nu >= 1 {
		return math.Inf(1)
	}
	return nu / (1 - nu)
}

// Tolerance is the forward error bound, relative to Σ|a·b|, of a sum of n products in f32 whose operands are exact and
// whose result is stored as dtype, in any order of summation, with or without fused multiply-add: every term passes at
// most n − 1 additions and one product; one more rounding each is granted for a bias and a gate.
func Tolerance(dtype DType, n int) float64 {
	sum := Gamma(n + 2)
	if dtype == F32 {
		return sum
	}
	return sum + dtype.Storage()*(1+sum)
}

// Underflow is the absolute error that n products flushed to zero, and one flushed result, may add to a sum.
func Underflow(dtype DType, n int) float64 { return float64(n+2)*tinyF32 + dtype.tiny() }

// Bound returns per element the largest error a correct kernel may show: Tolerance·Abs + Underflow.
func (r Result) Bound(dtype DType, n int) []float64 {
	return r.BoundBy(Tolerance(dtype, n), Underflow(dtype, n))
}

// BoundBy returns relative·Abs + absolute per element.
func (r Result) BoundBy(relative, absolute float64) []float64 {
	bound := make([]float64, len(r.Abs))
	for i, a := range r.Abs {
		bound[i] = relative*a + absolute
	}
	return bound
}

// ExpError is the relative error Vulkan allows of exp(x) in f32: 3 + 2·|x| ulp (Vulkan specification, "Precision and
// operation of SPIR-V instructions").
func ExpError(x float64) float64 { return (3 + 2*math.Abs(x)) * UnitF32 }

// DivError is the relative error Vulkan allows of one f32 division: 2.5 ulp.
const DivError = 2.5 * UnitF32

// GateTolerance is the relative error of one gate computed in f32 from exact logits: the exponentials of the numerator and
// of the sum, their rounded arguments, a sum over experts terms, and a division; twice that where the gates are divided
// by their sum again. span is the largest difference between logits of a row. A sigmoid's error does not depend on it
// (SigmoidTolerance); its gates are divided and scaled.
func GateTolerance(mode RouterMode, experts, k int, span float64) float64 {
	if mode.Sigmoid() {
		return 2*SigmoidTolerance + Gamma(k+2) + DivError
	}
	n := experts
	if mode == TopKSoftmax {
		n = k
	}
	argument := math.Abs(span) * UnitF32
	once := 2*(ExpError(span)+argument) + Gamma(n) + DivError
	if mode == SoftmaxTopKNorm {
		return 2*once + Gamma(k) + DivError
	}
	return once
}

// SigmoidTolerance is the relative error of 1/(1 + e^−x) in f32 with an exponential of the kernels' own, which is within
// 2 ulp: one addition, one division, one product, and the argument is exact.
const SigmoidTolerance = 4*UnitF32 + DivError

// ActivationTolerance is the error of one activation in f32 relative to Abs of Activate or ActivateGated: an exponential
// (or an erf of comparable error), a division and a handful of roundings. The tails, where the exponential's error grows
// with its argument, are those where the value vanishes against Abs.
func ActivationTolerance(dtype DType) float64 {
	const roundings = 16
	return roundings*UnitF32 + dtype.Storage()
}
