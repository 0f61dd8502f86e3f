#version 460
// expert_scan: second pass of the stable counting sort of slots by expert.
//
//   counts[b][e]   ← Σ_{b' < b} counts[b'][e], the slots of expert e in earlier blocks
//   offsets[e]     = Σ_{e' < e} rows(e'), for e in [0, E]; rows(e) = Σ_b counts[b][e]
//   tile_starts[e] = Σ_{e' < e} ⌈rows(e') / block_m⌉, for e in [0, E]
//   tile_args      = {x, y, 1} work-groups for an indirect dispatch of one work-group per tile (x ≤ 65,535,
//                    x·y ≥ tiles), then the number of tiles
//   status         = {slots whose id names no expert, the lowest of them, its id, 0}
//
// Push constants: device addresses of ids i32 [T·k], counts u32 [blocks, E + 2] (in and out), offsets i32 [E + 1],
// tile_starts u32 [E + 1], tile_args u32 [4], status u32 [4]; E, blocks, block_m.
// Mapping: one work-group. Neighbouring invocations take neighbouring experts; where there are fewer experts than
// invocations, the blocks of an expert are cut into segments.
// Accumulation: u32.
// Oracle: internal/ref/routing.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/routing.glsl"

layout(constant_id = 0) const uint THREADS = 128;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 counts;
    uvec2 offsets;
    uvec2 tile_starts;
    uvec2 tile_args;
    uvec2 status;
    uint experts;
    uint blocks;
    uint block_m;
} push;

const uint MAX_GROUPS_X = 65535u; // the least that Vulkan guarantees

shared uint total[MAX_BUCKETS];
shared uint partial_rows[THREADS];
shared uint partial_tiles[THREADS];

uint tiles_of(uint rows) {
    return (rows + push.block_m - 1u) / push.block_m;
}

// scan_blocks replaces each bucket's counts by the sums over earlier blocks and fills total.
void scan_blocks(uint me) {
    uint buckets = push.experts + 1u;
    uint width = 1u; // buckets side by side
    while (width < buckets && width < THREADS) {
        width *= 2u;
    }
    uint segments = THREADS / width;
    uint per_segment = (push.blocks + segments - 1u) / segments;
    uint segment = me / width;
    uint first = segment * per_segment;
    uint end = min(first + per_segment, push.blocks);
    for (uint start = 0u; start < buckets; start += width) {
        uint bucket = start + me % width;
        bool mine = bucket < buckets && segment < segments;
        uint rows = 0u;
        for (uint b = first; mine && b < end; b++) {
            rows += load_u32(count_row(push.counts, b, push.experts), bucket);
        }
        partial_rows[me] = rows;
        barrier();
        if (mine) {
            uint before = 0u;
            for (uint s = 0u; s < segment; s++) {
                before += partial_rows[s * width + me % width];
            }
            if (segment == segments - 1u) {
                total[bucket] = before + rows;
            }
            for (uint b = first; b < end; b++) {
                uvec2 row = count_row(push.counts, b, push.experts);
                uint here = load_u32(row, bucket);
                store_u32(row, bucket, before);
                before += here;
            }
        }
        barrier();
    }
}

// scan_experts writes offsets, tile_starts and tile_args from total.
void scan_experts(uint me) {
    uint buckets = push.experts + 1u;
    uint each = (buckets + THREADS - 1u) / THREADS;
    uint first = min(me * each, buckets);
    uint end = min(first + each, buckets);
    uint rows = 0u;
    uint tiles = 0u;
    for (uint e = first; e < end; e++) {
        rows += total[e];
        tiles += tiles_of(total[e]);
    }
    partial_rows[me] = rows;
    partial_tiles[me] = tiles;
    barrier();
    rows = 0u;
    tiles = 0u;
    for (uint i = 0u; i < me; i++) {
        rows += partial_rows[i];
        tiles += partial_tiles[i];
    }
    for (uint e = first; e < end; e++) {
        store_i32(push.offsets, e, int(rows));
        store_u32(push.tile_starts, e, tiles);
        if (e == push.experts) {
            store_u32(push.tile_args, 0u, min(tiles, MAX_GROUPS_X));
            store_u32(push.tile_args, 1u, (tiles + MAX_GROUPS_X - 1u) / MAX_GROUPS_X);
            store_u32(push.tile_args, 2u, 1u);
            store_u32(push.tile_args, 3u, tiles);
        }
        rows += total[e];
        tiles += tiles_of(total[e]);
    }
}

// report_bad finds the lowest slot without an expert.
void report_bad(uint me) {
    uint lowest = NO_SLOT;
    for (uint b = me; b < push.blocks; b += THREADS) {
        lowest = min(lowest, load_u32(count_row(push.counts, b, push.experts), push.experts + 1u));
    }
    barrier(); // scan_experts has read partial_rows
    partial_rows[me] = lowest;
    barrier();
    if (me != 0u) {
        return;
    }
    for (uint i = 1u; i < THREADS; i++) {
        lowest = min(lowest, partial_rows[i]);
    }
    store_u32(push.status, 0u, total[push.experts]);
    store_u32(push.status, 1u, lowest);
    store_u32(push.status, 2u, lowest == NO_SLOT ? 0u : uint(load_i32(push.ids, lowest)));
    store_u32(push.status, 3u, 0u);
}

void main() {
    if (group_id() > 0u) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    scan_blocks(me);
    scan_experts(me);
    report_bad(me);
}
