#version 460
// expert_histogram: first pass of the stable counting sort of slots by expert.
//
//   counts[b][e] = number of slots s of block b with ids[s] = e
//   counts[b][E] = number of slots of block b whose id is outside [0, E);  counts[b][E + 1] = the lowest of them
//
// Push constants: device addresses of ids i32 [T·k] and counts u32 [blocks, E + 2]; slots = T·k, E, slots per block,
// blocks.
// Mapping: one work-group per block.
// Accumulation: u32 by shared-memory atomics, whose result does not depend on their order.
// Oracle: internal/ref/routing.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/routing.glsl"

layout(constant_id = 0) const uint THREADS = 128;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 counts;
    uint slots;
    uint experts;
    uint slots_per_block;
    uint blocks;
} push;

shared uint count[MAX_BUCKETS];
shared uint lowest_bad;

void main() {
    uint block = group_id();
    if (block >= push.blocks) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    for (uint b = me; b <= push.experts; b += THREADS) {
        count[b] = 0u;
    }
    if (me == 0u) {
        lowest_bad = NO_SLOT;
    }
    barrier();

    uint first = block * push.slots_per_block;
    uint end = min(first + push.slots_per_block, push.slots);
    for (uint slot = first + me; slot < end; slot += THREADS) {
        uint bucket = bucket_of(load_i32(push.ids, slot), push.experts);
        atomicAdd(count[bucket], 1u);
        if (bucket == push.experts) {
            atomicMin(lowest_bad, slot);
        }
    }
    barrier();

    uvec2 row = count_row(push.counts, block, push.experts);
    for (uint b = me; b <= push.experts; b += THREADS) {
        store_u32(row, b, count[b]);
    }
    if (me == 0u) {
        store_u32(row, push.experts + 1u, lowest_bad);
    }
}
