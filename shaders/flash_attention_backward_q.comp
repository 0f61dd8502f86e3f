#version 460
// flash_attention_backward_q: the gradient of attention's queries (Dao et al., arXiv 2205.14135, appendix B.4). For query i
// of a head, over the keys j that it sees:
//
//   p_ij  = exp(cap(SCALE·q_i·k_j) − lse_i)         cap(s) = SOFT_CAP·tanh(s / SOFT_CAP), or s without a cap
//   ds_ij = p_ij·(dOut_i·v_j − delta_i)·(1 − tanh²)
//   dq_i  = SCALE·Σ_j ds_ij·k_j
//
// Heads, sequences and what a query sees: flash_attention_backward_kv.comp. A query that sees no key gets zeros.
//
// Push constants: device addresses of q, k, v, dout, lse f32 [T,Hq], delta f32 [T,Hq] (flash_attention_delta) and dq; the rest
// as include/flash_backward.glsl has it. A step is OTHER keys.
// Mapping: include/flash_backward.glsl, with queries as the own side; one work-group per OWN queries of a sequence and head,
// tiles of queries fastest.
// Accumulation: f32, keys in ascending order.
// Oracle: internal/ref/attention_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 q;
    uvec2 k;
    uvec2 v;
    uvec2 dout;
    uvec2 lse;
    uvec2 delta;
    uvec2 dq;
    uvec2 query_offsets;
    uvec2 key_offsets;
    uint q_stride;
    uint k_stride;
    uint v_stride;
    uint dout_stride;
    uint dq_stride;
    uint sequences;
    uint queries;
    uint keys;
    uint skip;
    uint heads;
    int window;
} push;

#define OWN_QUERIES 1
#include "include/flash_backward.glsl"
#include "include/flash_backward_pairs.glsl"

layout(constant_id = 21) const uint DQ_STRIDE = 64;

const uint DQ = 16u; // bit in QUADS and HEAD_MAJOR

const uint COLUMNS = (WIDTH + 4u * LANES - 1u) / (4u * LANES); // quads of an invocation

vec4 dq_sums[OWNS * COLUMNS]; // [own][column / 4]

uint kv_head(uint head) { return TILED ? head % kv_heads() : head / group_heads(); }

// add_tile adds the products of the pairs in shared memory with the rows of k.
void add_tile(uint me, Span k) {
    uint lane = me % LANES;
    uint group = me / LANES * (OWNS / 4u);
    uvec2 row = k.base;
    for (uint x = 0u; x < k.count; x++) {
        vec4 a[COLUMNS];
        [[unroll]] for (uint j = 0u; j < COLUMNS; j++) {
            a[j] = load_quad(row, 4u * (lane + j * LANES), WIDTH, (QUADS & K) != 0u);
        }
        [[unroll]] for (uint o = 0u; o < OWNS / 4u; o++) {
            vec4 ds = tile[x * OWN_QUADS + group + o];
            [[unroll]] for (uint c = 0u; c < 4u; c++) {
                [[unroll]] for (uint j = 0u; j < COLUMNS; j++) {
                    uint at = (4u * o + c) * COLUMNS + j;
                    dq_sums[at] = fma(vec4(ds[c]), a[j], dq_sums[at]);
                }
            }
        }
        row = address_add(row, k.step);
    }
}

void store_tile(uint me, uint first, uint count, uint head) {
    uint lane = me % LANES;
    Span dq = span(push.dq, DQ, push.dq_stride, DQ_STRIDE, first, count, head);
    [[unroll]] for (uint o = 0u; o < OWNS; o++) {
        uint row = me / LANES * OWNS + o;
        if (row < count) {
            [[unroll]] for (uint j = 0u; j < COLUMNS; j++) {
                store_sums(row_of(dq, row), 4u * (lane + j * LANES), WIDTH, (QUADS & DQ) != 0u, accumulates(),
                    SCALE * dq_sums[o * COLUMNS + j]);
            }
        }
    }
}

void main() {
    uint tiles = push.queries / OWN + push.sequences;
    uint head = group_id() / tiles;
    uint query;
    if (head >= kv_heads() * group_heads() || !find_sequence(group_id() - head * tiles, push.query_offsets, push.queries, query)) {
        return;
    }
    uint count = min(OWN, uint(sequence.end_query) - query);
    int first = sequence.first_key; // the keys that a query of the tile sees
    int end = sequence.end_key;
    if (CAUSAL) {
        end = min(end, int(query + count) + sequence.shift);
    }
    if (push.window > 0) {
        first = max(first, int(query) + sequence.shift - push.window + 1);
    }
    uint steps = (uint(max(end - first, 0)) + OTHER - 1u) / OTHER;
    uint last = min(steps, push.skip + MOST);
    if (push.skip >= last && accumulates()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    [[unroll]] for (uint i = 0u; i < OWNS * COLUMNS; i++) {
        dq_sums[i] = vec4(0.0);
    }
    Span q = span(push.q, Q, push.q_stride, Q_STRIDE, query, count, head);
    Span dout = span(push.dout, DOUT, push.dout_stride, DOUT_STRIDE, query, count, head);
    load_statistics(me, query, count, head);
    for (uint step = push.skip; step < last; step++) {
        uint key = uint(first) + step * OTHER;
        uint keys = min(OTHER, uint(end) - key);
        Span k = span(push.k, K, push.k_stride, K_STRIDE, key, keys, kv_head(head));
        Span v = span(push.v, V, push.v_stride, V_STRIDE, key, keys, kv_head(head));
        weigh_pairs(me, q, dout, int(query), k, v, int(key));
        add_tile(me, k);
    }
    store_tile(me, query, count, head);
}
