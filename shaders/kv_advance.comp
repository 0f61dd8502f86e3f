#version 460
// kv_advance: the lengths of a cache's sequences after kv_append, lengths[b] += offsets[b+1] − offsets[b], where those rows
// had room (include/kv_cache.glsl) and the length stays below 2^30; status becomes the lowest sequence for which they had
// none. It must hold 2^32 − 1 before.
//
// Push constants: device addresses of offsets i32 [B + 1], lengths i32 [B], status u32 [1]; B, capacity, window.
// Mapping: an invocation per sequence.
// Accumulation: integers; an atomic minimum.
// Oracle: internal/ref/attention.go, by attention over the cache
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/kv_cache.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 offsets;
    uvec2 lengths;
    uvec2 status;
    uint sequences;
    uint capacity;
    uint window;
} push;

const uint LONGEST = 1u << 30u;

void main() {
    uint sequence = group_id() * THREADS + gl_LocalInvocationID.x;
    if (group_id() * THREADS >= push.sequences || sequence >= push.sequences) {
        return;
    }
    uint count = uint(max(load_i32(push.offsets, sequence + 1u) - load_i32(push.offsets, sequence), 0));
    uint length = uint(max(load_i32(push.lengths, sequence), 0));
    if (fits(length, count, push.capacity, push.window) && length + count < LONGEST) {
        store_i32(push.lengths, sequence, int(length + count));
    } else {
        atomicMin(U32Words(push.status).at[0], sequence);
    }
}
