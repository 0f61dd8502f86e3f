#version 460
// flash_attention on cooperative matrices (VK_KHR_cooperative_matrix). The equation, the layouts and the push constants are
// those of flash_attention.comp; q, k, v and result are bf16 or f16. Scores are added up in f32; weights e^(s_j − max) are
// rounded to the storage type before they multiply the values, and their sum is that of the unrounded ones.
//
// Mapping: one work-group of THREADS invocations per BM rows × key/value head, tile ids from include/flash.glsl. A subgroup
// owns MI·MM rows: their queries, scores and sums stay in its registers. Keys come BN at a time; while scores are computed
// the values are on their way from memory to registers, and while those are added up the next keys.
// Requires: WIDTH a multiple of MK and VALUE_WIDTH of MN, both of 8; BN a multiple of MN and MK; all rows of all heads 16-byte
// aligned, and less than 2^36 bytes from the first to the last; splits 1.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run; keys in ascending order of tiles.
// exp2 is the device's: Vulkan lets it err by 3 + 2|x| ulp, far less than the rounding of a weight.
// Oracle: internal/ref/attention.go
#extension GL_GOOGLE_include_directive : require
#include "include/coopmat.glsl"
#include "include/flash_close.glsl"
#include "include/flash_coopmat.glsl"
#include "include/flash.glsl"

const uint KSTEPS = WIDTH / MK;
const uint NJ = BN / MN;
const uint NV = VALUE_WIDTH / MN;
const uint P_ROW = BN / 8u + 1u;
const uint K_LOADS = (BN * KQ + THREADS - 1u) / THREADS;
const uint V_LOADS = (BN * VQ + THREADS - 1u) / THREADS;

const uint SCRATCH = SUBGROUPS * MM * MN / 4u; // of add_values_seen, where the keys were
const uint V_FIRST = BN * K_ROW > SCRATCH ? BN * K_ROW : SCRATCH; // chunks before the tile of values
const uint P_FIRST = V_FIRST + BN * V_ROW;
const uint LOOP_CHUNKS = P_FIRST + BM * P_ROW;
const uint WIDE_ROW = K_ROW > V_ROW ? K_ROW : V_ROW;
const uint END_CHUNKS = BM * WIDE_ROW; // the queries at first, the results at last
const uint RARE = LOOP_CHUNKS > END_CHUNKS ? LOOP_CHUNKS : END_CHUNKS;
const uint CHUNKS = RARE + 1u;

// One memory under four types. Chunk RARE is other than 0 once a value was infinite or NaN that not all rows see.
layout(std430) shared AsChunks { uvec4 chunks[CHUNKS]; };
layout(std430) shared AsElements { ELEMENT elements[8u * CHUNKS]; };
layout(std430) shared AsWords { uint words[4u * CHUNKS]; };
layout(std430) shared AsFloats { float floats[4u * CHUNKS]; };

coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> q_now[MI * KSTEPS];
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> scores[MI * NJ];
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> sums[MI * NV];
float top[MI * SLOTS];   // largest score so far, in units of ln 2
float total[MI * SLOTS]; // of the weights, this invocation's keys only
uvec4 k_next[K_LOADS];
uvec4 v_next[V_LOADS];
uint first_m; // the subgroup's first row within the tile

uint row_of(uint i, uint slot) { return rows.first + first_m + i * MM + my_rows[slot]; }

void take_queries() {
    for (uint at = gl_LocalInvocationID.x; at < BM * KQ; at += THREADS) {
        uint row = rows.first + at / KQ;
        uvec2 base = address_at(address_at(push.q, rows.query + uint(query_of(row)), push.q_row), head_of(row), push.q_head);
        chunks[at / KQ * K_ROW + at % KQ] = Chunks(base).at[at % KQ];
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        [[unroll]] for (uint t = 0u; t < KSTEPS; t++) {
            coopMatLoad(q_now[i * KSTEPS + t], elements, 8u * (first_m + i * MM) * K_ROW + t * MK, 8u * K_ROW,
                gl_CooperativeMatrixLayoutRowMajor);
        }
    }
}

// The chunk of an operand that invocation at loads, from its first on. Keys from end on repeat the last.
uint chunk_at(uint at, uint across, uint row_bytes, uint head_bytes, int first, int end) {
    return key_row(min(first + int(at / across), end - 1)) * (row_bytes / 16u) + rows.kv_head * (head_bytes / 16u) + at % across;
}

void fetch_keys(uint me, int first, int end) {
    [[unroll]] for (uint i = 0u; i < K_LOADS; i++) {
        k_next[i] = Chunks(push.k).at[chunk_at(me + i * THREADS, KQ, push.k_row, push.k_head, first, end)];
    }
}

void put_keys(uint me) {
    [[unroll]] for (uint i = 0u; i < K_LOADS; i++) {
        uint at = me + i * THREADS;
        if (BN * KQ % THREADS == 0u || at < BN * KQ) {
            chunks[at / KQ * K_ROW + at % KQ] = k_next[i];
        }
    }
}

void fetch_values(uint me, int first, int end) {
    [[unroll]] for (uint i = 0u; i < V_LOADS; i++) {
        v_next[i] = Chunks(push.v).at[chunk_at(me + i * THREADS, VQ, push.v_row, push.v_head, first, end)];
    }
}

void put_values(uint me, bool edge) {
    bool found = false;
    [[unroll]] for (uint i = 0u; i < V_LOADS; i++) {
        uint at = me + i * THREADS;
        if (BN * VQ % THREADS == 0u || at < BN * VQ) {
            uvec4 v = v_next[i];
            chunks[V_FIRST + at / VQ * V_ROW + at % VQ] = v;
            if (edge) {
                found = found || is_infinite(v.x) || is_infinite(v.y) || is_infinite(v.z) || is_infinite(v.w);
            }
        }
    }
    if (edge && found) {
        words[4u * RARE] = 1u;
    }
}

void score() {
    [[unroll]] for (uint i = 0u; i < MI * NJ; i++) {
        scores[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    [[unroll]] for (uint t = 0u; t < KSTEPS; t++) {
        [[unroll]] for (uint j = 0u; j < NJ; j++) {
            coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> k_now;
            coopMatLoad(k_now, elements, 8u * j * MN * K_ROW + t * MK, 8u * K_ROW, gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint i = 0u; i < MI; i++) {
                scores[i * NJ + j] = coopMatMulAdd(q_now[i * KSTEPS + t], k_now, scores[i * NJ + j]);
            }
        }
    }
}

// hide gives the keys that a row does not see the score of none.
void hide(int first, int end) {
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        [[unroll]] for (uint s = 0u; s < SLOTS; s++) {
            ivec2 seen = visible(query_of(row_of(i, s)));
            [[unroll]] for (uint j = 0u; j < NJ; j++) {
                [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
                    int key = first + int(j * MN + my_columns[class_of(e)]);
                    if (slot_of(e) == s && (key < seen.x || key >= min(seen.y, end))) {
                        scores[i * NJ + j][e] = NEGATIVE_INF;
                    }
                }
            }
        }
    }
}

// weigh turns scores into weights, in the subgroup's strip, and scales what was summed before.
void weigh(int first, int end, bool edge) {
    [[unroll]] for (uint i = 0u; i < MI * NJ; i++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
            float s = scores[i][e] * (CAP > 0.0 ? push.scale : push.scale * LOG2_E);
            scores[i][e] = CAP > 0.0 ? CAP * LOG2_E * tanh_f32(s / CAP) : s;
        }
    }
    if (edge) {
        hide(first, end);
    }
    float shrink[MI * SLOTS];
    [[unroll]] for (uint i = 0u; i < MI * SLOTS; i++) {
        float best = top[i];
        [[unroll]] for (uint j = 0u; j < NJ; j++) {
            [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
                if (slot_of(e) == i % SLOTS) {
                    float s = scores[i / SLOTS * NJ + j][e];
                    best = s > best ? s : best; // a NaN score leaves the maximum alone
                }
            }
        }
        best = row_max(best);
        shrink[i] = exp2(top[i] - best);
        top[i] = best;
        total[i] *= shrink[i];
    }
    [[unroll]] for (uint i = 0u; i < MI * NJ; i++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e += EACH) {
            uint row = i / NJ * SLOTS + slot_of(e);
            vec2 p = vec2(exp2(scores[i][e] - top[row]), 0.0);
            uint at = 8u * (P_FIRST + (first_m + i / NJ * MM + my_rows[slot_of(e)]) * P_ROW) + i % NJ * MN;
            if (PAIRS) {
                p.y = exp2(scores[i][e + 1u] - top[row]);
                words[at / 2u + my_columns[class_of(e)] / 2u] = pack_finite(p);
            } else {
                elements[at + my_columns[class_of(e)]] = element_of(pack_finite(p));
            }
            total[row] += p.x + p.y;
        }
    }
    [[unroll]] for (uint i = 0u; i < MI * NV; i++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
            sums[i][e] *= shrink[i / NV * SLOTS + slot_of(e)];
        }
    }
}

#include "include/flash_coopmat_values.glsl"

void main() {
    if (!find_rows()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    first_m = gl_SubgroupID * MI * MM;
    // Queries in order see ranges that begin and end in order.
    ivec2 head = visible(query_of(rows.first));
    ivec2 tail = visible(query_of(rows.first + BM - 1u));
    take_queries();
    FIND_PLACES(floats)
    [[unroll]] for (uint i = 0u; i < MI * SLOTS; i++) {
        top[i] = LOWEST;
        total[i] = 0.0;
    }
    [[unroll]] for (uint i = 0u; i < MI * NV; i++) {
        sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    words[4u * RARE] = 0u;
    if (head.x < tail.y) {
        fetch_keys(me, head.x, tail.y);
        put_keys(me);
    }
    barrier();
    for (int first = head.x; first < tail.y; first += int(BN)) {
        bool edge = first < tail.x || first + int(BN) > head.y;
        fetch_values(me, first, tail.y);
        score();
        weigh(first, tail.y, edge);
        put_values(me, edge);
        barrier(); // values and strips are there, and nobody reads the keys any more
        if (first + int(BN) < tail.y) {
            fetch_keys(me, first + int(BN), tail.y);
        }
        if (edge && words[4u * RARE] != 0u) {
            add_values_seen(first, tail.y);
        } else {
            add_values();
        }
        if (first + int(BN) < tail.y) {
            put_keys(me);
        }
        barrier();
    }
    store_results();
}
