// Which rows of the operands a work-group of flash attention's backward pass has, on every path.
//
// Operands are found by two strides: that of rows and that of heads. The larger is a push constant, the smaller, which
// does not grow with the number of rows, a specialization constant; HEAD_MAJOR has the operand's bit where heads have the larger.
//
// Needs head.glsl, the push constants, CAUSAL, OWN, the rows of a tile, and OWN_QUERIES, 1 where these are queries and 0 where keys.
#ifndef FLASH_BACKWARD_ROWS_GLSL
#define FLASH_BACKWARD_ROWS_GLSL

// The operands' bits in HEAD_MAJOR, and in QUADS where there is that.
const uint Q = 1u;
const uint K = 2u;
const uint V = 4u;
const uint DOUT = 8u;

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

uvec2 row_of(Span rows, uint row) { return address_add(rows.base, row * rows.step); }

bool sees(int query, int key) {
    int position = query + sequence.shift;
    return query < sequence.end_query && key < sequence.end_key && (!CAUSAL || key <= position)
        && (push.window == 0 || key > position - push.window);
}

#endif
