#version 460
// kv_append: copies rows of keys and values into a cache whose sequences are rings of rows: key j of sequence b is in row
// b·capacity + j mod capacity.
//
// Appending, the source has n = offsets[b+1] − offsets[b] rows from offsets[b] on for a sequence of length lengths[b], which
// become its keys from that length on: all of them, or none where there is no room (include/kv_cache.glsl). Of more than
// capacity rows the last so many are copied. With MOVE the source is another cache, with source_capacity rows per sequence,
// of which the last keys are copied, as many as both have room for.
//
// Push constants: device addresses of the first elements of the source's k [T,Hkv,d] and v [T,Hkv,dv], of keys
// [B,capacity,Hkv,d], values [B,capacity,Hkv,dv], offsets i32 [B + 1] (MOVE: 0), lengths i32 [B]; strides of the source's rows
// and heads in bytes; rows (T, with MOVE B·source_capacity); B; Hkv; capacity; source_capacity; window.
// Mapping: LANES × ROWS invocations, a source row each LANES, which go over its heads' values, or columns of four with QUADS.
// Oracle: internal/ref/attention.go, by attention over the cache
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/kv_cache.glsl"

layout(constant_id = 0) const uint LANES = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const uint WIDTH = 64;
layout(constant_id = 3) const uint VALUE_WIDTH = 64;
layout(constant_id = 4) const bool QUADS = false;
layout(constant_id = 5) const bool MOVE = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 k;
    uvec2 v;
    uvec2 keys;
    uvec2 values;
    uvec2 offsets;
    uvec2 lengths;
    uint k_row;
    uint k_head;
    uint v_row;
    uint v_head;
    uint rows;
    uint sequences;
    uint heads;
    uint capacity;
    uint source_capacity;
    uint window;
} push;

const uint EACH = QUADS ? 4u : 1u;

// copy copies the heads of a row, which are dense in the cache.
void copy(uvec2 from, uint head_bytes, uvec2 to, uint width) {
    uint each = width / EACH;
    for (uint i = gl_LocalInvocationID.x; i < push.heads * each; i += LANES) {
        uint head = i / each;
        uvec2 base = address_at(from, head, head_bytes);
        uint column = (i - head * each) * EACH;
        if (QUADS) {
            store_value4(to, i * EACH, load_value4(base, column));
        } else {
            store_value(to, i, load_value(base, column));
        }
    }
}

// find_appended is the row of the cache for a row of the source; false where it is not copied.
bool find_appended(uint row, out uint to) {
    uint low = 0u;
    uint high = push.sequences - 1u;
    while (low < high) { // the last sequence that begins at or before the row
        uint middle = (low + high + 1u) / 2u;
        if (load_i32(push.offsets, middle) <= int(row)) {
            low = middle;
        } else {
            high = middle - 1u;
        }
    }
    int begin = load_i32(push.offsets, low);
    int count = load_i32(push.offsets, low + 1u) - begin;
    int at = int(row) - begin;
    uint length = uint(max(load_i32(push.lengths, low), 0));
    to = low * push.capacity + (length + uint(at)) % push.capacity;
    return at >= 0 && at < count && uint(count - at) <= push.capacity &&
        fits(length, uint(count), push.capacity, push.window);
}

// find_moved is that for a row of another cache.
bool find_moved(uint row, out uint to) {
    uint sequence = row / push.source_capacity;
    uint length = uint(max(load_i32(push.lengths, sequence), 0));
    uint kept = min(length, min(push.capacity, push.source_capacity));
    // The key that the row holds is the last one before length that is congruent to it.
    uint slot = row - sequence * push.source_capacity;
    uint behind = (length + push.source_capacity - 1u - slot) % push.source_capacity;
    to = sequence * push.capacity + (length - 1u - behind) % push.capacity;
    return behind < kept;
}

void main() {
    uint row = group_id() * ROWS + gl_LocalInvocationID.y;
    if (row >= push.rows) {
        return;
    }
    uint to;
    if (MOVE ? !find_moved(row, to) : !find_appended(row, to)) {
        return;
    }
    copy(address_at(push.k, row, push.k_row), push.k_head, address_at(push.keys, to, push.heads * WIDTH * VALUE_BYTES), WIDTH);
    copy(address_at(push.v, row, push.v_row), push.v_head,
        address_at(push.values, to, push.heads * VALUE_WIDTH * VALUE_BYTES), VALUE_WIDTH);
}
