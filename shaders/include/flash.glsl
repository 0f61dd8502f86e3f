// What the kernels of flash attention share: the push constants, and which rows and keys a work-group has. Rows are the
// queries of one key/value head: row r of a sequence is query r / group, with the r % group-th of the query heads that read
// the key/value head, so heads of a group share every load of keys and values. Needs BM, BN and head.glsl.
#ifndef FLASH_GLSL
#define FLASH_GLSL

layout(push_constant, std430) uniform Push {
    uvec2 q;
    uvec2 k;
    uvec2 v;
    uvec2 result;
    uvec2 lse;
    uvec2 query_offsets;
    uvec2 key_offsets;
    uvec2 sinks;
    uint q_row;
    uint q_head;
    uint k_row;
    uint k_head;
    uint v_row;
    uint v_head;
    uint result_row;
    uint result_head;
    uint tokens;
    uint key_rows;
    uint sequences;
    uint heads;
    uint flags;
    int window;
    float scale;
    uint splits;
} push;

const uint CAUSAL = 1u;
const uint TILED = 2u;
const uint RING = 4u;

bool has(uint flag) { return (push.flags & flag) != 0u; }

uint kv_heads() { return push.heads & 0xffffu; }

uint group_heads() { return push.heads >> 16u; }

// The rows of a work-group and the keys of their sequence, all the same for its invocations.
struct Rows {
    uint query;   // first query of the sequence
    int queries;  // of the sequence
    uint first;   // first row of the tile
    uint count;   // rows of the sequence
    uint kv_head;
    uint split;
    uint base;    // first key of the sequence, or of its ring
    int keys;     // of the sequence
    int oldest;   // first key that is still there
} rows;

// Offsets outside the rows that there are would lead astray.
int offset_at(uvec2 offsets, uint i, int limit) { return clamp(load_i32(offsets, i), 0, limit); }

uint first_tile(uint sequence) {
    return uint(offset_at(push.query_offsets, sequence, int(push.tokens))) * group_heads() / BM + sequence;
}

// find_sequence is the last sequence whose first tile is at most tile: sequence b has the tiles from
// ⌊offsets[b]·group / BM⌋ + b on, which are enough, since ⌊(x + n)/m⌋ − ⌊x/m⌋ + 1 ≥ ⌈n/m⌉.
uint find_sequence(uint tile) {
    uint low = 0u;
    uint high = push.sequences - 1u;
    while (low < high) {
        uint middle = (low + high + 1u) / 2u;
        if (first_tile(middle) <= tile) {
            low = middle;
        } else {
            high = middle - 1u;
        }
    }
    return low;
}

// find_rows returns false when the work-group has nothing to do. Later tiles of a causal sequence see more keys, so they
// begin first.
bool find_rows() {
    uint tiles = push.tokens * group_heads() / BM + push.sequences;
    uint id = group_id() / tiles;
    uint tile = tiles - 1u - (group_id() - id * tiles);
    rows.kv_head = id / push.splits;
    rows.split = id - rows.kv_head * push.splits;
    if (rows.kv_head >= kv_heads()) {
        return false;
    }
    uint sequence = find_sequence(tile);
    int begin = offset_at(push.query_offsets, sequence, int(push.tokens));
    int end = offset_at(push.query_offsets, sequence + 1u, int(push.tokens));
    rows.query = uint(begin);
    rows.queries = max(end - begin, 0);
    rows.count = uint(rows.queries) * group_heads();
    rows.first = (tile - first_tile(sequence)) * BM;
    if (rows.first >= rows.count) {
        return false;
    }
    if (has(RING)) {
        rows.base = sequence * push.key_rows;
        rows.keys = max(load_i32(push.key_offsets, sequence), 0);
        rows.oldest = max(rows.keys - int(push.key_rows), 0);
        return true;
    }
    int first = offset_at(push.key_offsets, sequence, int(push.key_rows));
    rows.base = uint(first);
    rows.keys = max(offset_at(push.key_offsets, sequence + 1u, int(push.key_rows)) - first, 0);
    rows.oldest = 0;
    return true;
}

// query_of is the query of a row within its sequence.
int query_of(uint row) { return int(min(row, rows.count - 1u) / group_heads()); }

// head_of is the query head of a row.
uint head_of(uint row) {
    uint member = min(row, rows.count - 1u) % group_heads();
    return has(TILED) ? member * kv_heads() + rows.kv_head : rows.kv_head * group_heads() + member;
}

// visible is the range of keys, its end exclusive, that a query sees; empty where y ≤ x.
ivec2 visible(int query) {
    int position = query + rows.keys - rows.queries;
    int low = push.window > 0 ? max(rows.oldest, position - push.window + 1) : rows.oldest;
    return ivec2(low, has(CAUSAL) ? min(rows.keys, position + 1) : rows.keys);
}

// key_row is the row of K and V that holds a key of the sequence.
uint key_row(int key) { return rows.base + (has(RING) ? uint(key) % push.key_rows : uint(key)); }

#endif
