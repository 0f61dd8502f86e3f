#version 460
// router_stats_sum: second pass of router_stats.
//
//   sums[c]   = Σ_b partial[b][c], for c in [0, E + 2)
//   counts[e] = offsets[e + 1] − offsets[e], the choices of expert e; counts[E] = offsets[E], those of all experts
//
// Push constants: device addresses of partial f32 [blocks, E + 2], offsets i32 [E + 1], sums f32 [E + 2],
// counts u32 [E + 1]; E, blocks.
// Mapping: a work-group per COLUMNS columns; the blocks are dealt out to THREADS / COLUMNS segments.
// Accumulation: f32, in a fixed order, so results repeat exactly.
// Oracle: internal/ref/router_stats.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint COLUMNS = 8;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 partial;
    uvec2 offsets;
    uvec2 sums;
    uvec2 counts;
    uint experts;
    uint blocks;
} push;

shared float segment_sums[THREADS];

void main() {
    uint columns = push.experts + 2u;
    uint first = group_id() * COLUMNS;
    if (first >= columns) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint segments = THREADS / COLUMNS;
    uint segment = me / COLUMNS;
    uint column = first + me % COLUMNS;
    float sum = 0.0;
    for (uint b = segment; column < columns && b < push.blocks; b += segments) {
        sum += load_f32(address_at(push.partial, b, columns * 4u), column);
    }
    segment_sums[me] = sum;
    barrier();
    if (segment != 0u || column >= columns) {
        return;
    }
    for (uint s = 1u; s < segments; s++) {
        sum += segment_sums[s * COLUMNS + me];
    }
    store_f32(push.sums, column, sum);
    if (column <= push.experts) {
        int choices = load_i32(push.offsets, column);
        if (column < push.experts) {
            choices = load_i32(push.offsets, column + 1u) - choices;
        }
        store_u32(push.counts, column, uint(choices));
    }
}
