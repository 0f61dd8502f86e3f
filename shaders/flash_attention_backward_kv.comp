#version 460
// flash_attention_backward_kv: the gradients of attention's keys and values (Dao et al., arXiv 2205.14135, appendix B.4;
// one work-group per tile of keys as in Dao, arXiv 2307.08691, but without atomics). For key j of a key/value head, over
// the queries i that see it, of all heads that read the key/value head:
//
//   p_ij  = exp(cap(SCALE·q_i·k_j) − lse_i)         cap(s) = SOFT_CAP·tanh(s / SOFT_CAP), or s without a cap
//   ds_ij = p_ij·(dOut_i·v_j − delta_i)·(1 − tanh²)
//   dv_j  = Σ_i p_ij·dOut_i        dk_j = SCALE·Σ_i ds_ij·q_i
//
// Head h reads key/value head h / (Hq / Hkv), or h mod Hkv when TILED. Query i of a sequence of n queries and
// m keys stands at key i + m − n; it sees no key after that when CAUSAL, and with a window none at that − window or before.
// Keys that no query sees get zeros.
//
// Push constants: device addresses of q, k, v, dout, lse f32 [T,Hq], delta f32 [T,Hq] (flash_attention_delta), dk and dv
// (0: not wanted); the rest as include/flash_backward.glsl has it. A step is OTHER queries of one head.
// Mapping: include/flash_backward.glsl, with keys as the own side; one work-group per OWN keys of a sequence and key/value
// head, tiles of keys fastest.
// Accumulation: f32, heads and queries in ascending order.
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
    uvec2 dk;
    uvec2 dv;
    uvec2 query_offsets;
    uvec2 key_offsets;
    uint q_stride;
    uint k_stride;
    uint v_stride;
    uint dout_stride;
    uint dk_stride;
    uint dv_stride;
    uint sequences;
    uint queries;
    uint keys;
    uint skip;
    uint heads;
    int window;
} push;

#define OWN_QUERIES 0
#include "include/flash_backward.glsl"
#include "include/flash_backward_pairs.glsl"

layout(constant_id = 21) const uint DK_STRIDE = 64;
layout(constant_id = 22) const uint DV_STRIDE = 64;

const uint DK = 16u; // bits in QUADS and HEAD_MAJOR
const uint DV = 32u;

const uint K_COLUMNS = (WIDTH + 4u * LANES - 1u) / (4u * LANES); // quads of an invocation
const uint V_COLUMNS = (VALUE_WIDTH + 4u * LANES - 1u) / (4u * LANES);

vec4 dk_sums[OWNS * K_COLUMNS]; // [own][column / 4]
vec4 dv_sums[OWNS * V_COLUMNS];

uint head_of(uint kv, uint member) {
    return TILED ? member * kv_heads() + kv : kv * group_heads() + member;
}

// add_tile adds the products of the pairs in shared memory with the rows of q and dOut.
void add_tile(uint me, Span q, Span dout) {
    uint lane = me % LANES;
    uint group = me / LANES * (OWNS / 4u);
    uvec2 q_row = q.base;
    uvec2 d_row = dout.base;
    for (uint x = 0u; x < q.count; x++) {
        vec4 a[K_COLUMNS];
        vec4 b[V_COLUMNS];
        [[unroll]] for (uint j = 0u; j < K_COLUMNS; j++) {
            a[j] = load_quad(q_row, 4u * (lane + j * LANES), WIDTH, (QUADS & Q) != 0u);
        }
        [[unroll]] for (uint j = 0u; j < V_COLUMNS; j++) {
            b[j] = load_quad(d_row, 4u * (lane + j * LANES), VALUE_WIDTH, (QUADS & DOUT) != 0u);
        }
        [[unroll]] for (uint o = 0u; o < OWNS / 4u; o++) {
            vec4 ds = tile[x * OWN_QUADS + group + o];
            vec4 p = tile[PAIR_QUADS + x * OWN_QUADS + group + o];
            [[unroll]] for (uint c = 0u; c < 4u; c++) {
                [[unroll]] for (uint j = 0u; j < K_COLUMNS; j++) {
                    uint at = (4u * o + c) * K_COLUMNS + j;
                    dk_sums[at] = fma(vec4(ds[c]), a[j], dk_sums[at]);
                }
                [[unroll]] for (uint j = 0u; j < V_COLUMNS; j++) {
                    uint at = (4u * o + c) * V_COLUMNS + j;
                    dv_sums[at] = fma(vec4(p[c]), b[j], dv_sums[at]);
                }
            }
        }
        q_row = address_add(q_row, q.step);
        d_row = address_add(d_row, dout.step);
    }
}

void store_tile(uint me, uint first, uint count, uint kv) {
    uint lane = me % LANES;
    Span dk = span(push.dk, DK, push.dk_stride, DK_STRIDE, first, count, kv);
    Span dv = span(push.dv, DV, push.dv_stride, DV_STRIDE, first, count, kv);
    [[unroll]] for (uint o = 0u; o < OWNS; o++) {
        uint row = me / LANES * OWNS + o;
        if (row < count && !address_is_null(push.dk)) {
            [[unroll]] for (uint j = 0u; j < K_COLUMNS; j++) {
                store_sums(row_of(dk, row), 4u * (lane + j * LANES), WIDTH, (QUADS & DK) != 0u, accumulates(),
                    SCALE * dk_sums[o * K_COLUMNS + j]);
            }
        }
        if (row < count && !address_is_null(push.dv)) {
            [[unroll]] for (uint j = 0u; j < V_COLUMNS; j++) {
                store_sums(row_of(dv, row), 4u * (lane + j * LANES), VALUE_WIDTH, (QUADS & DV) != 0u, accumulates(),
                    dv_sums[o * V_COLUMNS + j]);
            }
        }
    }
}

void main() {
    uint tiles = push.keys / OWN + push.sequences;
    uint kv = group_id() / tiles;
    uint key;
    if (kv >= kv_heads() || !find_sequence(group_id() - kv * tiles, push.key_offsets, push.keys, key)) {
        return;
    }
    uint count = min(OWN, uint(sequence.end_key) - key);
    int first = sequence.first_query; // the queries that see a key of the tile
    int end = sequence.end_query;
    if (CAUSAL) {
        first = max(first, int(key) - sequence.shift);
    }
    if (push.window > 0) {
        end = min(end, int(key + count) - 1 + push.window - sequence.shift);
    }
    uint steps = (uint(max(end - first, 0)) + OTHER - 1u) / OTHER; // of one head
    uint last = min(steps * group_heads(), push.skip + MOST);
    if (push.skip >= last && accumulates()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    [[unroll]] for (uint i = 0u; i < OWNS * K_COLUMNS; i++) {
        dk_sums[i] = vec4(0.0);
    }
    [[unroll]] for (uint i = 0u; i < OWNS * V_COLUMNS; i++) {
        dv_sums[i] = vec4(0.0);
    }
    Span k = span(push.k, K, push.k_stride, K_STRIDE, key, count, kv);
    Span v = span(push.v, V, push.v_stride, V_STRIDE, key, count, kv);
    for (uint step = push.skip; step < last; step++) {
        uint head = head_of(kv, step / steps);
        uint query = uint(first) + step % steps * OTHER;
        uint queries = min(OTHER, uint(end) - query);
        Span q = span(push.q, Q, push.q_stride, Q_STRIDE, query, queries, head);
        Span dout = span(push.dout, DOUT, push.dout_stride, DOUT_STRIDE, query, queries, head);
        load_statistics(me, query, queries, head);
        weigh_pairs(me, q, dout, int(query), k, v, int(key));
        add_tile(me, q, dout);
    }
    store_tile(me, key, count, kv);
}
