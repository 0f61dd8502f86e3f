package ref

// Philox4x32 is the counter-based generator Philox-4×32 with 10 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011): four random words for each counter and key.
func Philox4x32(counter [4]uint32, key [2]uint32) [4]uint32 {
	const (
		multiplier0 = 0xD2511F53
		multiplier1 = 0xCD9E8D57
		weyl0       = 0x9E3779B9 // the golden ratio
		weyl1       = 0xBB67AE85 // √3 − 1
	)
	for round := 0; round < 10; round++ {
		p0 := uint64(counter[0]) * multiplier0
		p1 := uint64(counter[2]) * multiplier1
		counter = [4]uint32{
			uint32(p1>>32) ^ counter[1] ^ key[0], uint32(p1),
			uint32(p0>>32) ^ counter[3] ^ key[1], uint32(p0),
		}
		key[0] += weyl0
		key[1] += weyl1
	}
	return counter
}

// JitterBits are the random integers behind Jitter: element i of a tensor has bits in [−2^22, 2^22), the top 23 bits of
// word i mod 4 of the generator's output for the counter (⌊i/4⌋, 0, step, stream) and the key seed.
func JitterBits(i int, seed uint64, step, stream uint32) int32 {
	words := Philox4x32([4]uint32{uint32(i / 4), 0, step, stream}, [2]uint32{uint32(seed), uint32(seed >> 32)})
	return int32(words[i%4]>>9) - 1<<22
}

// Jitter multiplies each element of x by a random number that is uniform in [1 − eps, 1 + eps):
//
//	y_i = x_i · (1 + eps·b_i/2^22),  b_i = JitterBits(i, …)
//
// as the Switch Transformer does to a router's input (arXiv 2101.03961, section 2.2). It is computed in float32 with one
// rounding per operation, so that a device which rounds to nearest gives the same bits.
func Jitter(x []float32, eps float32, seed uint64, step, stream uint32) []float32 {
	y := make([]float32, len(x))
	scale := eps / (1 << 22)
	for i, v := range x {
		deviation := scale * float32(JitterBits(i, seed, step, stream))
		factor := float32(1) + float32(deviation) // the conversion forbids a fused multiply-add
		y[i] = v * factor
	}
	return y
}
