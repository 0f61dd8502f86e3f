#version 460
// flash_attention_backward_kv on cooperative matrices (VK_KHR_cooperative_matrix). The equation, the layouts and the push
// constants are those of flash_attention_backward_kv.comp; all operands are bf16 or f16. Sums are f32; p and ds/SCALE are rounded
// to the storage type before they multiply dOut and the queries. skip is 0: one dispatch takes all queries.
//
// Mapping: include/flash_backward_coopmat.glsl, with keys as the own side; one work-group per BM keys of a sequence and key/value
// head, tiles of keys fastest.
// Requires: WIDTH and VALUE_WIDTH multiples of MK and MN, and of 8; BN one of MN and MK, and at most THREADS; all rows of all
// heads 16-byte aligned.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run; heads and tiles of queries in ascending
// order.
// Oracle: internal/ref/attention_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/coopmat.glsl"

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
#include "include/flash_backward_coopmat.glsl"

layout(constant_id = 26) const uint DK_STRIDE = 64;
layout(constant_id = 27) const uint DV_STRIDE = 64;

const uint DK = 16u; // bits in HEAD_MAJOR
const uint DV = 32u;

const bool WANTS_DK = (WANTS & 1u) != 0u;
const bool WANTS_DV = (WANTS & 2u) != 0u;

coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> dk_sums[WANTS_DK ? MI * (WIDTH / MN) : 1u];
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> dv_sums[WANTS_DV ? MI * (VALUE_WIDTH / MN) : 1u];

uint head_of(uint kv, uint member) {
    return TILED ? member * kv_heads() + kv : kv * group_heads() + member;
}

// weigh turns scores and products into p and ds/SCALE in the subgroup's strips.
void weigh(int first_key, int first_query, bool edge) {
    [[unroll]] for (uint j = 0u; j < NJ; j++) {
        vec2 statistics[CLASSES];
        [[unroll]] for (uint c = 0u; c < CLASSES; c++) {
            uint at = 4u * STATISTICS + 2u * (j * MN + my_columns[c]);
            statistics[c] = vec2(floats[at], floats[at + 1u]);
        }
        [[unroll]] for (uint i = 0u; i < MI; i++) {
            [[unroll]] for (uint e = 0u; e < ELEMENTS; e += EACH) {
                uint f = e + EACH - 1u; // the neighbour, if there is one
                vec2 one = weigh_pair(scores[i * NJ + j][e], products[i * NJ + j][e], statistics[class_of(e)]);
                vec2 two = vec2(0.0);
                if (PAIRS) {
                    two = weigh_pair(scores[i * NJ + j][f], products[i * NJ + j][f], statistics[class_of(f)]);
                }
                if (edge) {
                    int key = first_key + int(first_m + i * MM + my_rows[slot_of(e)]);
                    int query = first_query + int(j * MN + my_columns[class_of(e)]);
                    one = sees(query, key) ? one : vec2(0.0);
                    two = sees(query + 1, key) ? two : vec2(0.0);
                }
                if (WANTS_DV) {
                    put_element(P_FIRST, i, j, e, vec2(one.x, two.x));
                }
                if (WANTS_DK) {
                    put_element(DS_FIRST, i, j, e, vec2(one.y, two.y));
                }
            }
        }
    }
}

// fetch_step starts the loads of a step's queries.
void fetch_step(uint me, uint step, uint steps, int first, int end, uint kv) {
    uint head = head_of(kv, step / steps);
    uint query = uint(first) + step % steps * BN;
    uint queries = uint(end) - query;
    fetch(me, span(push.q, Q, push.q_stride, Q_STRIDE, query, queries, head),
        span(push.dout, DOUT, push.dout_stride, DOUT_STRIDE, query, queries, head));
    if (me < BN) {
        next_statistics = statistics_at(query + min(me, queries - 1u), head);
    }
}

void put_step(uint me) {
    put(me);
    if (me < BN) {
        floats[4u * STATISTICS + 2u * me] = next_statistics.x;
        floats[4u * STATISTICS + 2u * me + 1u] = next_statistics.y;
    }
}

void main() {
    uint tiles = push.keys / OWN + push.sequences;
    uint kv = group_id() / tiles;
    uint key;
    if (kv >= kv_heads() || !find_sequence(group_id() - kv * tiles, push.key_offsets, push.keys, key)) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint count = min(OWN, uint(sequence.end_key) - key);
    int first = sequence.first_query; // the queries that see a key of the tile
    int end = sequence.end_query;
    if (CAUSAL) {
        first = max(first, int(key) - sequence.shift);
    }
    if (push.window > 0) {
        end = min(end, int(key + count) - 1 + push.window - sequence.shift);
    }
    first_m = gl_SubgroupID * MI * MM;
    take_own(span(push.k, K, push.k_stride, K_STRIDE, key, count, kv), span(push.v, V, push.v_stride, V_STRIDE, key, count, kv));
    [[unroll]] for (uint i = 0u; i < dk_sums.length(); i++) {
        dk_sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    [[unroll]] for (uint i = 0u; i < dv_sums.length(); i++) {
        dv_sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    uint steps = (uint(max(end - first, 0)) + BN - 1u) / BN; // of one head
    uint last = steps * group_heads();
    if (last > 0u) {
        fetch_step(me, 0u, steps, first, end, kv);
        put_step(me);
    }
    barrier();
    for (uint step = 0u; step < last; step++) {
        bool more = step + 1u < last;
        if (EARLY && more) {
            fetch_step(me, step + 1u, steps, first, end, kv);
        }
        multiply();
        int query = first + int(step % steps * BN);
        bool edge = query + int(BN) > sequence.end_query || CAUSAL && int(key + OWN) - 1 > query + sequence.shift
            || push.window > 0 && int(key) <= query + int(BN) - 1 + sequence.shift - push.window;
        weigh(int(key), query, edge);
        subgroup_sync();
        if (WANTS_DV) {
            ADD_PRODUCTS(dv_sums, P_FIRST, V_FIRST, V_ROW, VALUE_WIDTH)
        }
        if (WANTS_DK) {
            ADD_PRODUCTS(dk_sums, DS_FIRST, 0u, K_ROW, WIDTH)
        }
        if (!EARLY && more) {
            fetch_step(me, step + 1u, steps, first, end, kv);
        }
        barrier();
        if (more) {
            put_step(me);
        }
        barrier();
    }
    if (WANTS_DK && !address_is_null(push.dk)) {
        Span dk = span(push.dk, DK, push.dk_stride, DK_STRIDE, key, count, kv);
        STORE_SUMS(dk_sums, dk, WIDTH, SCALE)
    }
    if (WANTS_DV && !address_is_null(push.dv)) {
        Span dv = span(push.dv, DV, push.dv_stride, DV_STRIDE, key, count, kv);
        STORE_SUMS(dv_sums, dv, VALUE_WIDTH, 1.0)
    }
}
