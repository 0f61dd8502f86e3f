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
// Needs head.glsl and OWN_QUERIES, 1 or 0; the kernel declares the push constants.
#ifndef FLASH_BACKWARD_GLSL
#define FLASH_BACKWARD_GLSL

#include "quads.glsl"
#include "soft_cap.glsl"

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
const uint OWN_APART = OWN / TO;    // distance between an invocation's groups of own rows, in groups
const uint OTHER_APART = OTHER / TX; // distance between its rows of the other side
const uint GROUPS = TO / 4u;
const uint CHUNK_QUADS = CHUNK / 4u;
const uint STRIDE = CHUNK_QUADS + 1u; // padded, against bank conflicts
const uint OWN_LOADS = (OWN * CHUNK_QUADS + THREADS - 1u) / THREADS;
const uint OTHER_LOADS = (OTHER * CHUNK_QUADS + THREADS - 1u) / THREADS;
const uint OWNS = OWN * LANES / THREADS; // own rows of an invocation's sums
const uint PAIR_QUADS = OTHER * OWN_QUADS;
const uint RESULT_QUADS = OWN_QUERIES == 1 ? PAIR_QUADS : 2u * PAIR_QUADS;
const uint CHUNK_TILE = (OWN + OTHER) * STRIDE;

// The chunks of both sides, then in the same place ds [other][own / 4], and after it p for kernels that own keys.
shared vec4 tile[CHUNK_TILE > RESULT_QUADS ? CHUNK_TILE : RESULT_QUADS];
shared float row_lse[OWN_QUERIES == 1 ? OWN : OTHER];
shared float row_delta[OWN_QUERIES == 1 ? OWN : OTHER];

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

// load_chunks brings columns [first, first + CHUNK) of both sides to shared memory, 0 where there are none. Own row r lies at
// r / 4 + OWN_QUADS·(r mod 4).
void load_chunks(uint me, Span own, bool own_quads, Span other, bool other_quads, uint first, uint width) {
    for (uint i = 0u; i < OWN_LOADS; i++) {
        uint at = me + i * THREADS;
        uint row = at / CHUNK_QUADS;
        if (row < OWN) {
            vec4 v = vec4(0.0);
            if (row < own.count) {
                v = load_quad(row_of(own, row), first + 4u * (at % CHUNK_QUADS), width, own_quads);
            }
            tile[((row & 3u) * OWN_QUADS + (row >> 2u)) * STRIDE + at % CHUNK_QUADS] = v;
        }
    }
    for (uint i = 0u; i < OTHER_LOADS; i++) {
        uint at = me + i * THREADS;
        uint row = at / CHUNK_QUADS;
        if (row < OTHER) {
            vec4 v = vec4(0.0);
            if (row < other.count) {
                v = load_quad(row_of(other, row), first + 4u * (at % CHUNK_QUADS), width, other_quads);
            }
            tile[(OWN + row) * STRIDE + at % CHUNK_QUADS] = v;
        }
    }
}

float dot_onto(vec4 a, vec4 b, float sum) { return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum)))); }

vec4 products[TX * GROUPS]; // [other][own / 4] of this invocation

// multiply sets products to the dot products of the rows of both sides.
void multiply(uint me, Span own, bool own_quads, Span other, bool other_quads, uint width) {
    uint my_own = me % OWN_APART;
    uint my_other = me / OWN_APART;
    [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
        products[i] = vec4(0.0);
    }
    for (uint first = 0u; first < width; first += CHUNK) {
        barrier(); // others may still read what is overwritten
        load_chunks(me, own, own_quads, other, other_quads, first, width);
        barrier();
        for (uint quad = 0u; quad < CHUNK_QUADS; quad++) {
            vec4 a[TO];
            [[unroll]] for (uint o = 0u; o < TO; o++) {
                a[o] = tile[((o & 3u) * OWN_QUADS + my_own + (o >> 2u) * OWN_APART) * STRIDE + quad];
            }
            [[unroll]] for (uint x = 0u; x < TX; x++) {
                vec4 b = tile[(OWN + my_other + x * OTHER_APART) * STRIDE + quad];
                [[unroll]] for (uint o = 0u; o < TO; o++) {
                    products[x * GROUPS + o / 4u][o % 4u] = dot_onto(a[o], b, products[x * GROUPS + o / 4u][o % 4u]);
                }
            }
        }
    }
}

// load_statistics brings LSE and D of the tile's queries, count from row first on, to shared memory.
void load_statistics(uint me, uint first, uint count, uint head) {
    for (uint i = me; i < count; i += THREADS) {
        uvec2 lse = address_at(push.lse, first + i, kv_heads() * group_heads() * 4u);
        uvec2 delta = address_at(push.delta, first + i, kv_heads() * group_heads() * 4u);
        row_lse[i] = load_f32(lse, head);
        row_delta[i] = load_f32(delta, head);
    }
}

bool sees(int query, int key) {
    int position = query + sequence.shift;
    return query < sequence.end_query && key < sequence.end_key && (!CAUSAL || key <= position)
        && (push.window == 0 || key > position - push.window);
}

// pair is p and ds/SCALE of one query and key from their products; statistic is the query's place in row_lse.
vec2 pair(float qk, float dv, int query, int key, uint statistic) {
    float logit = SCALE * qk;
    float slope = 1.0;
    if (SOFT_CAP > 0.0) {
        float t = tanh_f32(logit / SOFT_CAP);
        logit = SOFT_CAP * t;
        slope = (1.0 - t) * (1.0 + t);
    }
    float p = exp_f32(logit - row_lse[statistic]);
    return sees(query, key) ? vec2(p, p * (dv - row_delta[statistic]) * slope) : vec2(0.0);
}

// weigh_pairs computes p and ds/SCALE of the tile's pairs and leaves them in shared memory, readable after its last barrier.
// q and dout are rows of the tile's queries, first_query on; k and v of its keys.
void weigh_pairs(uint me, Span q, Span dout, int first_query, Span k, Span v, int first_key) {
    vec4 logits[TX * GROUPS];
    [[dont_unroll]] for (uint values = 0u; values < 2u; values++) { // q·k, then dOut·v; the code once
        Span query_rows = q, key_rows = k;
        if (values > 0u) {
            query_rows = dout;
            key_rows = v;
        }
        bool query_quads = (QUADS & (values > 0u ? DOUT : Q)) != 0u;
        bool key_quads = (QUADS & (values > 0u ? V : K)) != 0u;
        uint width = values > 0u ? VALUE_WIDTH : WIDTH;
        if (OWN_QUERIES == 1) {
            multiply(me, query_rows, query_quads, key_rows, key_quads, width);
        } else {
            multiply(me, key_rows, key_quads, query_rows, query_quads, width);
        }
        [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
            logits[i] = values > 0u ? logits[i] : products[i];
        }
    }
    barrier(); // the chunks make room for the results
    [[unroll]] for (uint i = 0u; i < TX * GROUPS; i++) {
        uint other = me / OWN_APART + i / GROUPS * OTHER_APART;
        uint own_quad = me % OWN_APART + i % GROUPS * OWN_APART;
        vec4 p, ds;
        [[unroll]] for (uint c = 0u; c < 4u; c++) {
            uint own = 4u * own_quad + c;
            uint query = OWN_QUERIES == 1 ? own : other;
            uint key = OWN_QUERIES == 1 ? other : own;
            vec2 both = pair(logits[i][c], products[i][c], first_query + int(query), first_key + int(key), query);
            p[c] = both.x;
            ds[c] = both.y;
        }
        tile[other * OWN_QUADS + own_quad] = ds;
        if (OWN_QUERIES == 0) {
            tile[PAIR_QUADS + other * OWN_QUADS + own_quad] = p;
        }
    }
    barrier();
}

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
