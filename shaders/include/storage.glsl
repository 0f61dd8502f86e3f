// Typed loads and stores at a device address. An index counts elements from the base and stays below 2^31: callers
// bring far operands near with address_at, one base per row.
//
// load_value, load_value4, store_value, store_value2 and store_value4 act on the kernel's storage dtype, which the
// variant's macro picks: STORAGE_F32, STORAGE_F16 or STORAGE_BF16. VALUE_BYTES is its size. load_f32 and friends always
// mean that type. load_input, load_output and store_output are the same in f32 where a variant also says INPUT_F32 or
// OUTPUT_F32; which operands those are is the kernel's affair. OUTPUT_16BIT is defined where outputs are 16 bits wide.
//
// 16-bit values are packed and unpacked in 32-bit words, so no device needs 16-bit types. Two invocations may write the
// halves of one word: where width is odd, rows begin in the middle of a word. store_value therefore changes its half by
// atomics, which leave the other half alone; store_value2 and store_value4 write words that values
// share in one go.
#ifndef STORAGE_GLSL
#define STORAGE_GLSL

layout(buffer_reference, std430, buffer_reference_align = 4) buffer F32Words { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer I32Words { int at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer U32Words { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 8) buffer U32Pairs { uvec2 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer F32Quads { vec4 at[]; };

float load_f32(uvec2 base, uint index) { return F32Words(base).at[index]; }

void store_f32(uvec2 base, uint index, float value) { F32Words(base).at[index] = value; }

int load_i32(uvec2 base, uint index) { return I32Words(base).at[index]; }

void store_i32(uvec2 base, uint index, int value) { I32Words(base).at[index] = value; }

uint load_u32(uvec2 base, uint index) { return U32Words(base).at[index]; }

void store_u32(uvec2 base, uint index, uint value) { U32Words(base).at[index] = value; }

// index is a multiple of 4 and base one of 16
vec4 load_f32x4(uvec2 base, uint index) { return F32Quads(base).at[index >> 2u]; }

void store_f32x4(uvec2 base, uint index, vec4 value) { F32Quads(base).at[index >> 2u] = value; }

// The first count, 0 to 2, of the values at index and index + 1.
void store_f32_some2(uvec2 base, uint index, vec2 value, uint count) {
    if (count > 0u) {
        store_f32(base, index, value.x);
    }
    if (count > 1u) {
        store_f32(base, index + 1u, value.y);
    }
}

#if defined(STORAGE_F32)

#define VALUE_BYTES 4u
#define store_some2 store_f32_some2

float load_value(uvec2 base, uint index) { return load_f32(base, index); }

void store_value(uvec2 base, uint index, float value) { store_f32(base, index, value); }

// index is a multiple of 4 and base one of 16
vec4 load_value4(uvec2 base, uint index) { return load_f32x4(base, index); }

void store_value4(uvec2 base, uint index, vec4 value) { store_f32x4(base, index, value); }

#elif defined(STORAGE_F16) || defined(STORAGE_BF16)

#define VALUE_BYTES 2u

#include "float16.glsl"

#if defined(STORAGE_F16)
#define WIDEN widen_f16
#define NARROW narrow_f16
#else
#define WIDEN widen_bf16
#define NARROW narrow_bf16
#endif

// The word that holds a base's first value, which may be the word's upper half.
uvec2 word_base(uvec2 base) { return uvec2(base.x & ~3u, base.y); }

// The index in halves from word_base on.
uint half_index(uvec2 base, uint index) { return index + ((base.x >> 1u) & 1u); }

float load_value(uvec2 base, uint index) {
    uint at = half_index(base, index);
    return WIDEN((load_u32(word_base(base), at >> 1u) >> (16u * (at & 1u))) & 0xffffu);
}

// Changes half at of the words from base on, and leaves the other half of its word alone.
void store_half(uvec2 base, uint at, uint bits) {
    uint shift = 16u * (at & 1u);
    atomicAnd(U32Words(base).at[at >> 1u], ~(0xffffu << shift));
    atomicOr(U32Words(base).at[at >> 1u], bits << shift);
}

void store_value(uvec2 base, uint index, float value) {
    store_half(word_base(base), half_index(base, index), NARROW(value));
}

uint pack2(vec2 value) { return NARROW(value.x) | (NARROW(value.y) << 16u); }

// The first count, 0 to 2, of the values at index and index + 1: one plain store where both share a word.
void store_some2(uvec2 base, uint index, vec2 value, uint count) {
    uint at = half_index(base, index);
    uint bits = pack2(value);
    base = word_base(base);
    if (count == 2u && (at & 1u) == 0u) {
        store_u32(base, at >> 1u, bits);
    } else {
        [[dont_unroll]] for (uint i = 0u; i < count; i++) {
            store_half(base, at + i, bits & 0xffffu);
            bits >>= 16u;
        }
    }
}

// index is a multiple of 4 and base one of 8
vec4 load_value4(uvec2 base, uint index) {
    uvec2 words = U32Pairs(base).at[index >> 2u];
    return vec4(WIDEN(words.x & 0xffffu), WIDEN(words.x >> 16u), WIDEN(words.y & 0xffffu), WIDEN(words.y >> 16u));
}

void store_value4(uvec2 base, uint index, vec4 value) {
    U32Pairs(base).at[index >> 2u] = uvec2(pack2(value.xy), pack2(value.zw));
}

#endif

#if defined(VALUE_BYTES)
void store_value2(uvec2 base, uint index, vec2 value) { store_some2(base, index, value, 2u); }
#endif

// as_stored is what a value becomes when it is stored as an output.
#if defined(VALUE_BYTES)
#if defined(STORAGE_F32) || defined(OUTPUT_F32)
float as_stored(float value) { return value; }
#else
float as_stored(float value) { return WIDEN(NARROW(value)); }
#endif
#endif

#if defined(INPUT_F32)
#define INPUT_BYTES 4u
#define load_input load_f32
#define load_input4 load_f32x4
#else
#define INPUT_BYTES VALUE_BYTES
#define load_input load_value
#define load_input4 load_value4
#endif

#if defined(OUTPUT_F32)
#define OUTPUT_BYTES 4u
#define load_output load_f32
#define load_output4 load_f32x4
#define store_output store_f32
#define store_output_some2 store_f32_some2
#define store_output4 store_f32x4
#else
#define OUTPUT_BYTES VALUE_BYTES
#ifndef STORAGE_F32
#define OUTPUT_16BIT
#endif
#define load_output load_value
#define load_output4 load_value4
#define store_output store_value
#define store_output_some2 store_some2
#define store_output4 store_value4
#endif

#endif
