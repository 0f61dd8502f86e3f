// What kernels on cooperative matrices share: extensions, the type of an element, and 16-byte chunks of eight elements.
// Starts like head.glsl and replaces it.
#ifndef COOPMAT_GLSL
#define COOPMAT_GLSL
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shared_memory_block : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#ifdef STORAGE_BF16
#extension GL_EXT_bfloat16 : require
#define ELEMENT bfloat16_t
#else
#define ELEMENT float16_t
#endif
#include "head.glsl"
#pragma use_vulkan_memory_model

layout(buffer_reference, std430, buffer_reference_align = 16) readonly buffer Chunks { uvec4 at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer ChunksInOut { uvec4 at[]; };

// subgroup_sync lets the invocations of a subgroup see what they have stored in shared memory.
void subgroup_sync() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

// pack rounds two values to the storage type, to nearest even, the first in the low half: the conversion of a cooperative
// matrix is free to truncate.
uint pack(vec2 v) {
#ifdef STORAGE_BF16
    uvec2 bits = floatBitsToUint(v);
    bvec2 nan = greaterThan(bits & 0x7fffffffu, uvec2(0x7f800000u));
    uvec2 rounded = (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
    uvec2 halves = mix(rounded, (bits >> 16u) | 0x40u, nan);
    return halves.x | halves.y << 16u;
#else
    return packFloat2x16(f16vec2(v));
#endif
}

// pack_numbers is pack where neither value is NaN: a third of the instructions for bf16.
uint pack_numbers(vec2 v) {
#ifdef STORAGE_BF16
    uvec2 bits = floatBitsToUint(v);
    bits += 0x7fffu + ((bits >> 16u) & 1u);
    return bits.x >> 16u | (bits.y & 0xffff0000u);
#else
    return pack(v);
#endif
}

// unpack widens a word's two values, which is exact.
vec2 unpack(uint word) {
#ifdef STORAGE_BF16
    return uintBitsToFloat(uvec2(word << 16u, word & 0xffff0000u));
#else
    return vec2(unpackFloat2x16(word));
#endif
}

// The values of a chunk, in two halves.
vec4 low_of(uvec4 chunk) { return vec4(unpack(chunk.x), unpack(chunk.y)); }

vec4 high_of(uvec4 chunk) { return vec4(unpack(chunk.z), unpack(chunk.w)); }

uvec4 chunk_of(vec4 low, vec4 high) { return uvec4(pack(low.xy), pack(low.zw), pack(high.xy), pack(high.zw)); }

// exact_pack and exact_chunk_of are the same for values of the storage type, which need no rounding.
uint exact_pack(vec2 v) {
#ifdef STORAGE_BF16
    uvec2 bits = floatBitsToUint(v);
    return bits.x >> 16u | (bits.y & 0xffff0000u);
#else
    return pack(v);
#endif
}

uvec4 exact_chunk_of(vec4 low, vec4 high) {
    return uvec4(exact_pack(low.xy), exact_pack(low.zw), exact_pack(high.xy), exact_pack(high.zw));
}

#endif
