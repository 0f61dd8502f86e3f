// What the kernels of flash attention's backward pass share: a work-group owns OWN neighbouring rows of one side, queries or
// keys, and walks OTHER rows of the other side at a time. Of each such tile it computes the logits' products q·k and the
// products dOut·v of all pairs, turns them into probabilities and the logits' gradients, and leaves these in shared memory.
//
// Mapping: THREADS = (OWN / TO)·(OTHER / TX); an invocation computes TX rows of the other side × TO of its own, the
// latter in groups of four neighbours. Columns pass through shared memory CHUNK at a time. For the sums over the other
// side, LANES invocations share OWNS rows, each with every LANES-th quad of their columns. TO, OWNS and CHUNK are multiples of 4.
//
// Operands are found by two strides: that of rows and that of heads. The larger is a push constant, the smaller, which
// does not grow with the number of rows, a specialization constant; HEAD_MAJOR has the operand's bit where heads have the larger.
// QUADS has it where rows may be read four values at a time.
//
// A dispatch takes MOST steps of OTHER rows after the first push.skip ones. What a second one for the same rows finds it
// adds to, and so does the first with ACCUMULATE.
//
// Push constants of both kernels, beside the addresses and strides of their operands: query_offsets and key_offsets i32
// [sequences + 1], sequences, queries (rows of q), keys (rows of k), skip, heads (Hkv, and Hq / Hkv in the upper half), window.
//
// Needs head.glsl and OWN_QUERIES, 1 or 0; the kernel declares the push constants.
#ifndef FLASH_BACKWARD_GLSL
#define FLASH_BACKWARD_GLSL

#include "quads.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint OWN = 32;
layout(constant_id = 2) const uint OTHER = 16;
layout(constant_id = 3) const uint TO = 4;
layout(constant_id = 4) const uint TX = 2;
layout(constant_id = 5) const uint CHUNK = 32;
layout(constant_id = 6) const uint LANES = 16;
layout(constant_id = 7) const uint MOST = 0x3fffffff;
layout(constant_id = 8) const uint WIDTH = 64;
layout(constant_id = 9) const uint VALUE_WIDTH = 64;
layout(constant_id = 10) const float SCALE = 1.0;
layout(constant_id = 11) const float SOFT_CAP = 0.0;
layout(constant_id = 12) const bool CAUSAL = false;
layout(constant_id = 13) const bool TILED = false;
layout(constant_id = 14) const bool ACCUMULATE = false;
layout(constant_id = 15) const uint QUADS = 0;
layout(constant_id = 16) const uint HEAD_MAJOR = 0;
layout(constant_id = 17) const uint Q_STRIDE = 64;
layout(constant_id = 18) const uint K_STRIDE = 64;
layout(constant_id = 19) const uint V_STRIDE = 64;
layout(constant_id = 20) const uint DOUT_STRIDE = 64;
layout(local_size_x_id = 0) in;

// The operands' bits in QUADS and HEAD_MAJOR.
const uint Q = 1u;
const uint K = 2u;
const uint V = 4u;
const uint DOUT = 8u;

const uint OWN_QUADS = OWN / 4u;
const uint OWNS = OWN * LANES / THREADS; // own rows of an invocation's sums

// A span is the rows [first, end) of one operand's head: the address of row first and the bytes from row to row.
struct Span {
    uvec2 base;
    uint step;
    uint count;
};

// The sequence of this work-group: rows of queries and of keys, and the key row at which query row 0 would stand.
struct Sequence {
    int first_query, end_query, first_key, end_key, shift;
} sequence;

int offset_at(uvec2 offsets, uint b, uint rows) {
    return clamp(load_i32(offsets, b), 0, int(rows));
}

// find_sequence finds the sequence of a tile and sets own to the tile's first row. Sequence b has its tiles from
// offsets[b] / OWN + b on: no two sequences meet there, and rows / OWN + sequences tiles are enough for all. It returns
// false for a tile without rows.
bool find_sequence(uint tile_id, uvec2 own_offsets, uint own_rows, out uint own) {
    uint low = 0u;
    uint high = push.sequences;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        bool before = uint(offset_at(own_offsets, middle, own_rows)) / OWN + middle <= tile_id;
        low = before ? middle : low;
        high = before ? high : middle;
    }
    sequence.first_query = offset_at(push.query_offsets, low, push.queries);
    sequence.end_query = offset_at(push.query_offsets, low + 1u, push.queries);
    sequence.first_key = offset_at(push.key_offsets, low, push.keys);
    sequence.end_key = offset_at(push.key_offsets, low + 1u, push.keys);
    sequence.shift = sequence.end_key - sequence.end_query;
    int first = OWN_QUERIES == 1 ? sequence.first_query : sequence.first_key;
    int end = OWN_QUERIES == 1 ? sequence.end_query : sequence.end_key;
    own = uint(first) + (tile_id - (uint(first) / OWN + low)) * OWN;
    return int(own) >= first && int(own) < end; // the former unless offsets[0] is above 0
}

// span is rows [first, first + count) of a head; push_stride is the larger of the operand's strides, spec_stride the smaller.
Span span(uvec2 operand, uint bit, uint push_stride, uint spec_stride, uint first, uint count, uint head) {
    bool head_major = (HEAD_MAJOR & bit) != 0u;
    uint row_bytes = (head_major ? spec_stride : push_stride) * VALUE_BYTES;
    uint head_bytes = (head_major ? push_stride : spec_stride) * VALUE_BYTES;
    return Span(address_at(address_at(operand, first, row_bytes), head, head_bytes), row_bytes, count);
}

uint kv_heads() { return push.heads & 0xffffu; }

// group_heads is how many query heads read a key/value head.
uint group_heads() { return push.heads >> 16u; }

// accumulates says whether results are added to what is there: by order, or by an earlier dispatch for fewer steps.
bool accumulates() { return ACCUMULATE || push.skip > 0u; }

uvec2 row_of(Span rows, uint row) { return address_add(rows.base, row * rows.step); }

// store_sums stores four columns of a row of gradients, or adds them to it.
void store_sums(uvec2 row, uint column, uint width, bool quads, bool accumulate, vec4 v) {
    if (quads) {
        if (column < width) {
            store_value4(row, column, accumulate ? load_value4(row, column) + v : v);
        }
        return;
    }
    store_pair(row, column, width, v.xy, true, accumulate);
    store_pair(row, column + 2u, width, v.zw, true, accumulate);
}

#endif
