// The weights of an expert: stored as they are, or quantized (WEIGHTS_INT8, WEIGHTS_Q4). Needs the push constants of
// scatter2scatter, the tile and bank.glsl.
//
// A quantized expert is one block of words, a multiple of 16 bytes: the codes of its rows [out,P], P being in rounded up to a
// multiple of 32, then the scales of its rows.
//
//   WEIGHTS_INT8  a byte per code, value (byte − 128)·scale; one f32 scale per row
//   WEIGHTS_Q4    four bits per code, value (bits − 8)·scale; one f16 scale per 32 codes, a whole number of words per row
//
// Codes lie in ascending order from a word's low bits on; those beyond in mean 0. A scale of WEIGHTS_Q4 has five significant
// bits at most, so that values are exact in f16 and bf16.
#ifndef WEIGHTS_GLSL
#define WEIGHTS_GLSL

#if defined(WEIGHTS_INT8) || defined(WEIGHTS_Q4)
#define WEIGHTS_QUANTIZED
#endif

#ifdef WEIGHTS_QUANTIZED

#ifdef WEIGHTS_INT8
const uint CODES = 4u; // of a word
#else
const uint CODES = 8u;
#endif

uint code_words() { return ((push.in_width + 31u) & ~31u) / CODES; }

uint scale_words() {
#ifdef WEIGHTS_INT8
    return 1u;
#else
    return (push.in_width + 63u) / 64u;
#endif
}

// expert_codes is where the tile's expert begins.
uvec2 expert_codes() {
    uint bytes = (4u * push.out_width * (code_words() + scale_words()) + 15u) & ~15u;
    return expert_base(push.w, has(W_TABLE), tile.expert, 1u, bytes);
}

// row_codes is the row of output n, and row_scales where its scales are.
uvec2 row_codes(uvec2 expert, uint n) { return address_at(expert, n, 4u * code_words()); }

uvec2 row_scales(uvec2 expert, uint n) {
    return address_at(address_at(expert, push.out_width, 4u * code_words()), n, 4u * scale_words());
}

// codes_of_byte2 and codes_of_nibble4 make floats of the codes in a word's lower half: bits put below the leading one of a power of two
// whose last place they are count units, and what is subtracted is exact.
vec2 codes_of_byte2(uint word) {
    uvec2 bits = uvec2(word & 0xffu, word & 0xff00u) | uvec2(0x4b000000u, 0x47000000u); // 2^23 and 2^15
    return uintBitsToFloat(bits) - vec2(8388736.0, 32896.0);
}

vec4 codes_of_nibble4(uint word) {
    uvec4 bits = uvec4(word & 0xfu, word & 0xf0u, word & 0xf00u, word & 0xf000u) |
        uvec4(0x4b000000u, 0x49000000u, 0x47000000u, 0x45000000u); // 2^23, 2^19, 2^15 and 2^11
    return uintBitsToFloat(bits) - vec4(8388616.0, 524296.0, 32776.0, 2056.0);
}

// codes_of8 makes floats of eight codes: two words of bytes, or one word of which the second is a copy.
void codes_of8(uvec2 words, out vec4 low, out vec4 high) {
#ifdef WEIGHTS_INT8
    low = vec4(codes_of_byte2(words.x), codes_of_byte2(words.x >> 16u));
    high = vec4(codes_of_byte2(words.y), codes_of_byte2(words.y >> 16u));
#else
    low = codes_of_nibble4(words.x);
    high = codes_of_nibble4(words.x >> 16u);
#endif
}

// load_codes4 loads the codes at index, a multiple of four below P.
vec4 load_codes4(uvec2 row, uint index) {
    uint word = load_u32(row, index / CODES);
#ifdef WEIGHTS_INT8
    return vec4(codes_of_byte2(word), codes_of_byte2(word >> 16u));
#else
    return codes_of_nibble4(word >> (4u * (index & 4u)));
#endif
}

// The scale of a block of 32 inputs as the f16's bits, and as a float. fast_half: see scatter2scatter_gemv.comp.
uint load_scale_bits(uvec2 scales, uint block) { return load_u32(scales, block >> 1u) >> (16u * (block & 1u)) & 0xffffu; }

#ifdef WEIGHTS_Q4
#include "float16.glsl"

float scale_of(uint bits, bool fast_half) { return fast_half ? unpackHalf2x16(bits).x : widen_f16(bits); }
#endif

#endif

#endif
