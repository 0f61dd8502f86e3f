// Chunks of 16 bytes of a row of weights and the inputs that they meet, part by part. Needs weights.glsl and FAST_HALF.
#ifndef WEIGHT_CHUNKS_GLSL
#define WEIGHT_CHUNKS_GLSL

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Chunks { uvec4 at[]; };

#if defined(WEIGHTS_QUANTIZED) || !defined(STORAGE_F32)
const uint VALUES = 8u; // of a part of a chunk, which meets as many inputs
#else
const uint VALUES = 4u;
#endif
#ifdef WEIGHTS_QUANTIZED
const uint PARTS = CODES / 2u; // of a chunk
#else
const uint PARTS = 1u;
#endif
const uint VECTORS = VALUES / 4u;

#ifndef STORAGE_F32
vec2 widen2(uint word) {
#ifdef STORAGE_F16
    if (FAST_HALF) {
        return unpackHalf2x16(word);
    }
    return vec2(widen_f16(word & 0xffffu), widen_f16(word >> 16u));
#else
    return uintBitsToFloat(uvec2(word << 16u, word & 0xffff0000u));
#endif
}
#endif

// widen makes floats of a chunk of stored values.
void widen(uvec4 chunk, out vec4 v[VECTORS]) {
#ifdef STORAGE_F32
    v[0] = uintBitsToFloat(chunk);
#else
    v[0] = vec4(widen2(chunk.x), widen2(chunk.y));
    v[1] = vec4(widen2(chunk.z), widen2(chunk.w));
#endif
}

// widen_part makes floats of a part of a chunk of weights; of quantized ones they are the codes.
void widen_part(uvec4 chunk, uint part, out vec4 v[VECTORS]) {
#if defined(WEIGHTS_INT8)
    codes_of8(part == 0u ? chunk.xy : chunk.zw, v[0], v[1]);
#elif defined(WEIGHTS_Q4)
    codes_of8(uvec2(chunk[part]), v[0], v[1]);
#else
    widen(chunk, v);
#endif
}

// load_x loads the inputs that a part of W meets.
void load_x(uvec2 row, uint part, out vec4 v[VECTORS]) {
#if defined(INPUT_F32) || defined(STORAGE_F32)
    [[unroll]] for (uint i = 0u; i < VECTORS; i++) {
        v[i] = load_f32x4(row, part * VALUES + 4u * i);
    }
#else
    widen(Chunks(row).at[part], v);
#endif
}

#endif
