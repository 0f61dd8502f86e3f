#version 460
// expert_scatter: second and last pass of the stable counting sort of slots by expert.
//
//   offsets[e]  = Σ_{e' < e} rows(e'), for e in [0, E]; rows(e) = Σ_b counts[b][e]
//   p           = offsets[e] + (slots of e before slot s),  e = ids[s]
//   order[p]    = s;  inverse[s] = p
//   tiles[i]    = {e, offsets[e] + block_m·(i − starts(e)), offsets[e + 1]},  e the expert with starts(e) ≤ i < starts(e + 1);
//                 starts(e) = Σ_{e' < e} ⌈rows(e') / block_m⌉
//   tile_args   = {x, y, 1} work-groups for an indirect dispatch of one work-group per tile (x ≤ 65,535,
//                 x·y ≥ tiles), then the number of tiles
//   status      = {slots whose id names no expert, the lowest of them, its id, 0}
//
// A slot whose id names no expert has inverse −1; as many entries at the end of order are −1.
//
// Push constants: device addresses of ids i32 [T·k], counts u32 [blocks, E + 2], offsets i32 [E + 1], order i32 [T·k],
// inverse i32 [T·k], tiles i32 [tiles, 3], tile_args, status u32 [4]; slots = T·k, E, slots per block, blocks, block_m.
// Mapping: one work-group per block. Each adds up all blocks' counts for itself, which takes less time than a dispatch in
// between. It walks its slots in chunks of THREADS, and each invocation ranks its slot among the chunk's (bucket_ranks.glsl), so
// the sort is stable. Block 0 writes what belongs to no block.
// DIRECT: every work-group counts all slots itself, which for a few thousand takes less time than a dispatch before this one.
// Accumulation: u32, by shared-memory atomics, whose result does not depend on their order.
// Oracle: internal/ref/routing.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/routing.glsl"

layout(constant_id = 0) const uint THREADS = 64;     // a multiple of 32
layout(constant_id = 1) const bool DIRECT = false;  // counts is not read; slots per block is THREADS
layout(constant_id = 2) const uint MASKS = 0;      // words of masks for ranks, THREADS / 32 · (E + 1), or 0 for none
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 counts;
    uvec2 offsets;
    uvec2 order;
    uvec2 inverse;
    uvec2 tiles;
    uvec2 tile_args;
    uvec2 status;
    uint slots;
    uint experts;
    uint slots_per_block;
    uint blocks;
    uint block_m;
} push;

const uint MAX_GROUPS_X = 65535u; // the least that Vulkan guarantees
const uint STEP = 16u;            // blocks whose counts, or slots whose ids, are loaded at once

shared uint start[MAX_BUCKETS]; // the rows of each bucket, then its first grouped position
shared uint next[MAX_BUCKETS];  // the slots of each bucket in earlier blocks, then the position of its next slot
shared uint tile_start[MAX_BUCKETS];
shared uvec2 partial[THREADS];
shared uint lowest_bad;

#include "include/bucket_ranks.glsl"

uint tiles_of(uint rows) {
    return (rows + push.block_m - 1u) / push.block_m;
}

// add_blocks adds up each bucket's counts: of all blocks to start, of those before this one to next.
void add_blocks(uint block, uint me) {
    for (uint bucket = me; bucket <= push.experts; bucket += THREADS) {
        uint all = 0u;
        uint before = 0u;
        for (uint first = 0u; first < push.blocks; first += STEP) {
            uint count[STEP];
            [[unroll]] for (uint i = 0u; i < STEP; i++) {
                uint b = min(first + i, push.blocks - 1u);
                count[i] = load_u32(count_row(push.counts, b, push.experts), bucket);
            }
            [[unroll]] for (uint i = 0u; i < STEP; i++) {
                all += first + i < push.blocks ? count[i] : 0u;
                before += first + i < block ? count[i] : 0u;
            }
        }
        start[bucket] = all;
        next[bucket] = before;
    }
}

// add_slots counts the same from the ids, and finds the lowest slot without an expert.
void add_slots(uint first_slot, uint me) {
    for (uint b = me; b <= push.experts; b += THREADS) {
        start[b] = 0u;
    }
    barrier();
    for (uint first = me; first < push.slots; first += STEP * THREADS) {
        int ids[STEP];
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            ids[i] = load_i32(push.ids, min(first + i * THREADS, push.slots - 1u));
        }
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            uint slot = first + i * THREADS;
            if (slot < push.slots) {
                uint bucket = bucket_of(ids[i], push.experts);
                atomicAdd(start[bucket], slot < first_slot ? 0x10001u : 1u); // those before in the upper half
                if (bucket == push.experts) {
                    atomicMin(lowest_bad, slot);
                }
            }
        }
    }
    barrier();
    for (uint b = me; b <= push.experts; b += THREADS) {
        next[b] = start[b] >> 16u;
        start[b] &= 0xffffu;
    }
}

// scan_buckets turns start into first positions and adds them to next; it fills tile_start.
void scan_buckets(uint me) {
    uint buckets = push.experts + 1u;
    uint each = (buckets + THREADS - 1u) / THREADS;
    uint first = min(me * each, buckets);
    uint end = min(first + each, buckets);
    uvec2 mine = uvec2(0u); // rows and tiles
    for (uint b = first; b < end; b++) {
        mine += uvec2(start[b], tiles_of(start[b]));
    }
    partial[me] = mine;
    barrier();
    for (uint step = 1u; step < THREADS; step *= 4u) { // of three neighbours at once, which takes fewer barriers
        uvec2 sum = partial[me];
        [[unroll]] for (uint q = 1u; q < 4u; q++) {
            sum += partial[max(me, q * step) - q * step] * uint(me >= q * step);
        }
        barrier();
        partial[me] = sum;
        barrier();
    }
    uvec2 before = partial[me] - mine;
    for (uint b = first; b < end; b++) {
        uint rows = start[b];
        start[b] = before.x;
        next[b] += before.x;
        tile_start[b] = before.y;
        before += uvec2(rows, tiles_of(rows));
    }
    barrier();
}

// report writes what belongs to no block.
void report(uint me) {
    for (uint b = me; b <= push.experts; b += THREADS) {
        store_i32(push.offsets, b, int(start[b]));
    }
    for (uint b = me; !DIRECT && b < push.blocks; b += THREADS) {
        atomicMin(lowest_bad, load_u32(count_row(push.counts, b, push.experts), push.experts + 1u));
    }
    barrier();
    if (me == 0u) {
        uint tiles = tile_start[push.experts];
        store_u32(push.tile_args, 0u, min(tiles, MAX_GROUPS_X));
        store_u32(push.tile_args, 1u, (tiles + MAX_GROUPS_X - 1u) / MAX_GROUPS_X);
        store_u32(push.tile_args, 2u, 1u);
        store_u32(push.tile_args, 3u, tiles);
        store_u32(push.status, 0u, push.slots - start[push.experts]);
        store_u32(push.status, 1u, lowest_bad);
        // Where all is well some id is read all the same (see readable in address.glsl).
        uvec2 ids = push.slots == 0u ? push.status : push.ids;
        uint id = uint(load_i32(ids, lowest_bad == NO_SLOT ? 0u : lowest_bad));
        store_u32(push.status, 2u, lowest_bad == NO_SLOT ? 0u : id);
        store_u32(push.status, 3u, 0u);
    }
}

// bucket_at is the bucket of a slot, NO_BUCKET from end on.
uint bucket_at(uint slot, uint end) {
    uint bucket = bucket_of(load_i32(push.ids, min(slot, push.slots - 1u)), push.experts);
    return slot < end ? bucket : NO_BUCKET;
}

// sort_block sorts the block's slots, the first THREADS of which have the buckets given.
void sort_block(uint first, uint end, uint bucket, uint me) {
    for (uint from = first; from < end; from += THREADS) {
        uint slot = from + me;
        if (from > first) {
            bucket = bucket_at(slot, end);
            clear_ranks(me); // all have been read
            barrier();
        }
        put_bucket(me, bucket);
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
    uint low = 0u, high = push.experts;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        if (tile_start[middle] <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

void main() {
    uint block = group_id();
    if (block >= max(push.blocks, 1u)) { // without slots, offsets and tile_args are written all the same
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint first = block * push.slots_per_block;
    uint end = min(first + push.slots_per_block, push.slots);
    uint bucket = NO_BUCKET;
    if (first < end) { // without slots there is no id to read
        bucket = bucket_at(first + me, end);
    }
    if (me == 0u) {
        lowest_bad = NO_SLOT;
    }
    clear_ranks(me);
    if (DIRECT) {
        add_slots(first, me);
    } else {
        add_blocks(block, me);
    }
    barrier();
    scan_buckets(me);
    sort_block(first, end, bucket, me);
    uint tiles = tile_start[push.experts];
    for (uint i = block * THREADS + me; i < tiles; i += push.blocks * THREADS) {
        uint e = expert_of_tile(i);
        store_i32(push.tiles, 3u * i, int(e));
        store_i32(push.tiles, 3u * i + 1u, int(start[e] + push.block_m * (i - tile_start[e])));
        store_i32(push.tiles, 3u * i + 2u, int(start[e + 1u]));
    }
    if (block == 0u) {
        report(me);
    }
}
