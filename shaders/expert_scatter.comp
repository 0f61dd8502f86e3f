#version 460
// expert_scatter: third pass of the stable counting sort of slots by expert.
//
//   p          = offsets[e] + (slots of e before slot s),  e = ids[s]
//   order[p]   = s;  inverse[s] = p
//   tiles[i]   = {e, offsets[e] + block_m·(i − tile_starts[e])},  e the expert with tile_starts[e] ≤ i < tile_starts[e+1]
//
// A slot whose id names no expert has inverse −1; as many entries at the end of order are −1.
//
// Push constants: device addresses of ids i32 [T·k], counts u32 [blocks, E + 2] and tile_starts u32 [E + 1] as
// expert_scan leaves them, offsets i32 [E + 1], order i32 [T·k], inverse i32 [T·k], tiles i32 [tiles, 2]; slots = T·k, E,
// slots per block, blocks, block_m.
// Mapping: one work-group per block; it walks its slots in chunks of THREADS, and each invocation ranks its slot among
// the chunk's by comparison, so the sort is stable and needs neither subgroup operations nor atomics.
// Oracle: internal/ref/routing.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/routing.glsl"

layout(constant_id = 0) const uint THREADS = 64; // a multiple of 4
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 counts;
    uvec2 offsets;
    uvec2 tile_starts;
    uvec2 order;
    uvec2 inverse;
    uvec2 tiles;
    uint slots;
    uint experts;
    uint slots_per_block;
    uint blocks;
    uint block_m;
} push;

const uint NO_BUCKET = 0xffffffffu;

shared uint next[MAX_BUCKETS]; // the grouped position of the next slot of each bucket
shared uvec4 chunk[THREADS / 4];

// rank returns how many invocations of the chunk have this bucket: those before me, and all.
uvec2 rank(uint me, uint bucket) {
    uvec4 before = uvec4(0u);
    uvec4 all = uvec4(0u);
    uvec4 place = uvec4(0u, 1u, 2u, 3u);
    for (uint q = 0u; q < THREADS / 4u; q++) {
        uvec4 same = uvec4(equal(chunk[q], uvec4(bucket)));
        all += same;
        before += same * uvec4(lessThan(place, uvec4(me)));
        place += 4u;
    }
    return uvec2(before.x + before.y + before.z + before.w, all.x + all.y + all.z + all.w);
}

void sort_block(uint block, uint me) {
    uvec2 row = count_row(push.counts, block, push.experts);
    for (uint b = me; b <= push.experts; b += THREADS) {
        next[b] = uint(load_i32(push.offsets, b)) + load_u32(row, b);
    }
    uint first = block * push.slots_per_block;
    uint end = min(first + push.slots_per_block, push.slots);
    for (uint start = first; start < end; start += THREADS) {
        uint slot = start + me;
        uint bucket = slot < end ? bucket_of(load_i32(push.ids, slot), push.experts) : NO_BUCKET;
        chunk[me / 4u][me % 4u] = bucket;
        barrier();
        uvec2 same = rank(me, bucket);
        bool placed = bucket != NO_BUCKET;
        uint position = placed ? next[bucket] + same.x : 0u;
        barrier();
        if (placed) {
            if (same.x + 1u == same.y) {
                next[bucket] = position + 1u; // the last of its bucket in this chunk
            }
            bool valid = bucket < push.experts;
            store_i32(push.order, position, valid ? int(slot) : -1);
            store_i32(push.inverse, slot, valid ? int(position) : -1);
        }
    }
}

// expert_of_tile is the last expert whose tiles start at or before tile i.
uint expert_of_tile(uint i) {
    uint low = 0u;
    uint high = push.experts;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        if (load_u32(push.tile_starts, middle) <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

void main() {
    uint block = group_id();
    if (block >= push.blocks) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    sort_block(block, me);
    uint tiles = load_u32(push.tile_starts, push.experts);
    for (uint i = block * THREADS + me; i < tiles; i += push.blocks * THREADS) {
        uint e = expert_of_tile(i);
        uint row = uint(load_i32(push.offsets, e)) + push.block_m * (i - load_u32(push.tile_starts, e));
        store_i32(push.tiles, 2u * i, int(e));
        store_i32(push.tiles, 2u * i + 1u, int(row));
    }
}
