package vk

// Round returns the values that a tensor of dtype F32, F16 or BF16 holds after an Upload of these: a copy, rounded to
// nearest even. nil stays nil.
func Round(dtype DType, values []float32) []float32 {
	if values == nil {
		return nil
	}
	out := make([]float32, len(values))
	for i, v := range values {
		switch dtype {
		case F16:
			out[i] = FromF16(ToF16(v))
		case BF16:
			out[i] = FromBF16(ToBF16(v))
		default:
			out[i] = v
		}
	}
	return out
}
