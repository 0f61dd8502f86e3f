#version 460
// flash_attention_backward_q on cooperative matrices (VK_KHR_cooperative_matrix). The equation, the layouts and the push
// constants are those of flash_attention_backward_q.comp; all operands are bf16 or f16. Sums are f32; ds/SCALE is rounded to the
// storage type before it multiplies the keys. skip is 0: one dispatch takes all keys.
//
// Mapping: include/flash_backward_coopmat.glsl, with queries as the own side; one work-group per BM queries of a sequence and
// head, tiles of queries fastest.
// Requires: WIDTH and VALUE_WIDTH multiples of MK and MN, and of 8; BN one of MN and MK; all rows of all heads 16-byte aligned.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run; keys in ascending order of tiles.
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
#include "include/flash_backward_coopmat.glsl"

layout(constant_id = 26) const uint DQ_STRIDE = 64;

const uint DQ = 16u; // bit in HEAD_MAJOR

coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> dq_sums[MI * (WIDTH / MN)];
vec2 statistics[MI * SLOTS]; // of this invocation's rows

uint kv_head(uint head) { return TILED ? head % kv_heads() : head / group_heads(); }

// weigh turns scores and products into ds/SCALE in the subgroup's strip.
void weigh(int first_query, int first_key, bool edge) {
    [[unroll]] for (uint i = 0u; i < MI * NJ; i++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e += EACH) {
            int query = first_query + int(first_m + i / NJ * MM + my_rows[slot_of(e)]);
            int key = first_key + int(i % NJ * MN + my_columns[class_of(e)]);
            vec2 of_row = statistics[i / NJ * SLOTS + slot_of(e)];
            vec2 ds = vec2(weigh_pair(scores[i][e], products[i][e], of_row).y, 0.0);
            if (PAIRS) {
                ds.y = weigh_pair(scores[i][e + EACH - 1u], products[i][e + EACH - 1u], of_row).y;
            }
            if (edge) {
                ds = vec2(sees(query, key) ? ds.x : 0.0, sees(query, key + 1) ? ds.y : 0.0);
            }
            put_element(DS_FIRST, i / NJ, i % NJ, e, ds);
        }
    }
}

void main() {
    uint tiles = push.queries / OWN + push.sequences;
    uint head = group_id() / tiles;
    uint query;
    // Later tiles of a causal sequence see more keys, so they begin first.
    if (head >= kv_heads() * group_heads()
        || !find_sequence(tiles - 1u - (group_id() - head * tiles), push.query_offsets, push.queries, query)) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint count = min(OWN, uint(sequence.end_query) - query);
    int first = sequence.first_key; // the keys that a query of the tile sees
    int end = sequence.end_key;
    if (CAUSAL) {
        end = min(end, int(query + count) + sequence.shift);
    }
    if (push.window > 0) {
        first = max(first, int(query) + sequence.shift - push.window + 1);
    }
    first_m = gl_SubgroupID * MI * MM;
    take_own(span(push.q, Q, push.q_stride, Q_STRIDE, query, count, head),
        span(push.dout, DOUT, push.dout_stride, DOUT_STRIDE, query, count, head));
    [[unroll]] for (uint i = 0u; i < MI * SLOTS; i++) {
        statistics[i] = statistics_at(query + min(first_m + i / SLOTS * MM + my_rows[i % SLOTS], count - 1u), head);
    }
    [[unroll]] for (uint i = 0u; i < MI * (WIDTH / MN); i++) {
        dq_sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    uint kv = kv_head(head);
    uint keys = uint(max(end - first, 0));
    Span k = span(push.k, K, push.k_stride, K_STRIDE, uint(first), keys, kv);
    Span v = span(push.v, V, push.v_stride, V_STRIDE, uint(first), keys, kv);
    if (keys > 0u) {
        fetch(me, k, v);
        put(me);
    }
    barrier();
    for (int key = first; key < end; key += int(BN)) {
        bool more = key + int(BN) < end;
        k = Span(row_of(k, BN), k.step, uint(end - key) - BN);
        v = Span(row_of(v, BN), v.step, uint(end - key) - BN);
        if (EARLY && more) {
            fetch(me, k, v);
        }
        multiply();
        bool edge = key + int(BN) > sequence.end_key || CAUSAL && key + int(BN) - 1 > int(query) + sequence.shift
            || push.window > 0 && key <= int(query + OWN) - 1 + sequence.shift - push.window;
        weigh(int(query), key, edge);
        subgroup_sync();
        ADD_PRODUCTS(dq_sums, DS_FIRST, 0u, K_ROW, WIDTH)
        if (!EARLY && more) {
            fetch(me, k, v);
        }
        barrier();
        if (more) {
            put(me);
        }
        barrier();
    }
    Span dq = span(push.dq, DQ, push.dq_stride, DQ_STRIDE, query, count, head);
    STORE_SUMS(dq_sums, dq, WIDTH, SCALE)
}
