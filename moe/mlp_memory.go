package moe

// WeightBytes is the device memory of the layer's weights, in bytes, each tensor rounded up to 256: with w the dtype's
// bytes, w·(E·D + E·D·(H or 2H) + E·H·D) and the biases and shared experts. Their gradients (NewGrads) take as much.
func (c MLPConfig) WeightBytes() uint64 {
	m := MLP{Config: c}
	n := uint64(0)
	for _, part := range m.parts() {
		p := part.cfg
		n += tensorBytes(c.DType.Bytes(), p.Experts, p.In, p.Out)
		if p.Bias {
			n += tensorBytes(c.DType.Bytes(), p.Experts, p.Out)
		}
	}
	if c.CorrectionBias {
		n += tensorBytes(4, c.Experts)
	}
	return n
}

// tensorBytes is what a tensor takes: elements rounded up to 256 bytes.
func tensorBytes(element uint64, shape ...int) uint64 {
	n := element
	for _, s := range shape {
		n *= uint64(s)
	}
	return (n + 255) / 256 * 256
}
