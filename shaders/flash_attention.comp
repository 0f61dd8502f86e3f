#version 460
// flash_attention: softmax(scale·Q·Kᵀ)·V by online softmax (Dao et al., arXiv 2205.14135, algorithm 1; the outer loop over
// queries of arXiv 2307.08691), for sequences of unequal lengths. For query i of a sequence's n with m keys, at position
// p = i + m − n, over the keys j that it sees:
//
//   s_j  = scale·q_i·k_j, then CAP·tanh(s_j / CAP) where CAP > 0
//   out  = Σ_j e^(s_j − LSE)·v_j,   LSE = ln(Σ_j e^(s_j) + e^sink)
//
// It sees j ≤ p when CAUSAL, and j > p − window when window > 0. A query that sees no key gets 0 and the sink as its LSE.
// Query head h reads key/value head h / group, or h mod kv_heads when TILED.
//
// PARTIAL: the keys are cut into splits, and instead of out and LSE go, for each split, Σ_j e^(s_j − max)·v_j to result, f32
// [splits,T·Hq,dv], and max and Σ_j e^(s_j − max) to lse, f32 [splits,T·Hq,2]. flash_merge follows.
//
// Push constants (include/flash.glsl): device addresses of the first elements of q [T,Hq,d], k [Tk,Hkv,d], v [Tk,Hkv,dv] and
// result [T,Hq,dv], of lse f32 [T,Hq] (0: none), query_offsets i32 [B + 1], key_offsets i32 [B + 1] (with RING the lengths i32
// [B]), sinks f32 [Hq] (0: none); strides of rows and heads in bytes; T; Tk (with RING the rows of one sequence); B;
// Hkv + group·2^16; flags; window; scale; splits.
// Mapping: one work-group per BM rows × key/value head × split, a row being one of the group's heads of a query, tile ids
// from include/flash.glsl. Keys come BN at a time. An invocation owns TM × TN scores, ROWS_M and GROUPS apart, and as many
// rows of the result in columns of four, GROUPS apart; THREADS = (BM / TM)·(BN / TN). BK columns of four of Q and K, or BV
// keys of V, pass through shared memory at a time; loops over them are unrolled UK and UV times. No loop with another in it
// that is not unrolled goes over an invocation's rows: their sums would have to leave the registers.
// QUADS allows loads and stores of four values. Accumulation: f32, keys in ascending order.
// Oracle: internal/ref/attention.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/quads.glsl"
#include "include/float.glsl"
#include "include/flash_close.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint BM = 32;
layout(constant_id = 2) const uint BN = 32;
layout(constant_id = 3) const uint TM = 4;
layout(constant_id = 4) const uint TN = 4;
layout(constant_id = 5) const uint BK = 8;
layout(constant_id = 6) const uint BV = 8;
layout(constant_id = 7) const uint WIDTH = 64;
layout(constant_id = 8) const uint VALUE_WIDTH = 64;
layout(constant_id = 9) const bool QUADS = false;
layout(constant_id = 10) const bool PARTIAL = false;
layout(constant_id = 11) const float CAP = 0.0;
layout(constant_id = 12) const uint UK = 8;
layout(constant_id = 13) const uint UV = 8;
layout(local_size_x_id = 0) in;

#include "include/flash.glsl"

const uint WQ = (WIDTH + 3u) / 4u;
const uint VQ = (VALUE_WIDTH + 3u) / 4u;
const uint GROUPS = BN / TN;                             // invocations that share rows
const uint ROWS_M = BM / TM;                             // distance between an invocation's rows
const uint CV = (VQ + GROUPS - 1u) / GROUPS;             // columns of four that an invocation owns
const uint K_STRIDE = BK + 1u;                           // padded, against bank conflicts
const uint P_STRIDE = BN + 4u;
const uint KV_SIZE = BN * K_STRIDE > BV * VQ ? BN * K_STRIDE : BV * VQ;
const float UNSEEN = -1.0;                               // a weight that is none: weights are ≥ 0 or NaN

shared vec4 q_tile[BM * K_STRIDE]; // [row][column / 4]
shared vec4 kv_tile[KV_SIZE];      // [key][column / 4], keys or values
shared float p_tile[BM * P_STRIDE]; // [row][key], weights
shared float part[BM * GROUPS];

uint first_m;
uint first_n;
float scores[TM * TN];
vec4 sums[TM * CV];
float top[TM];   // largest score so far
float total[TM]; // of the weights, this invocation's keys only

uint row_of(uint i) { return rows.first + first_m + i * ROWS_M; }

#include "include/flash_load.glsl"
#include "include/flash_store.glsl"

// score multiplies the tile's rows with keys [first, first + BN), the first ones if fresh; from end on keys repeat.
void score(uint me, int first, int end, bool fresh) {
    find_k_rows(me, first, end);
    [[unroll]] for (uint i = 0u; i < TM * TN; i++) {
        scores[i] = 0.0;
    }
    for (uint step = 0u; step < WQ; step += BK) {
        if (fresh || WQ > BK) {
            load_queries(me, step);
        }
        load_keys(me, step, first, end);
        barrier();
        [[dont_unroll]] for (uint start = 0u; start < BK; start += UK) {
            [[unroll]] for (uint u = 0u; u < UK; u++) {
                vec4 k[TN];
                [[unroll]] for (uint j = 0u; j < TN; j++) {
                    k[j] = kv_tile[(first_n + j * GROUPS) * K_STRIDE + start + u];
                }
                [[unroll]] for (uint i = 0u; i < TM; i++) {
                    vec4 x = q_tile[(first_m + i * ROWS_M) * K_STRIDE + start + u];
                    [[unroll]] for (uint j = 0u; j < TN; j++) {
                        float sum = scores[i * TN + j];
                        sum = fma(x.x, k[j].x, sum);
                        sum = fma(x.y, k[j].y, sum);
                        sum = fma(x.z, k[j].z, sum);
                        scores[i * TN + j] = fma(x.w, k[j].w, sum);
                    }
                }
            }
        }
        barrier();
    }
}

// weigh turns scores into weights in p_tile and scales what was summed before. A NaN score leaves the maximum alone.
void weigh(int first, int end, bool edge) {
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        ivec2 seen = edge ? visible(query_of(row_of(i))) : ivec2(first, end);
        float best = LOWEST;
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            int key = first + int(first_n + j * GROUPS);
            float s = scores[i * TN + j] * push.scale;
            s = CAP > 0.0 ? CAP * tanh_f32(s / CAP) : s;
            bool sees = key >= seen.x && key < min(seen.y, end);
            scores[i * TN + j] = s;
            p_tile[(first_m + i * ROWS_M) * P_STRIDE + first_n + j * GROUPS] = sees ? 0.0 : UNSEEN;
            best = sees && s > best ? s : best;
        }
        part[(first_m + i * ROWS_M) * GROUPS + first_n] = best;
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        uint row = first_m + i * ROWS_M;
        float best = top[i];
        [[unroll]] for (uint g = 0u; g < GROUPS; g++) {
            best = max(best, part[row * GROUPS + g]);
        }
        float shrink = exp_f32(top[i] - best);
        top[i] = best;
        total[i] *= shrink;
        [[unroll]] for (uint c = 0u; c < CV; c++) {
            sums[i * CV + c] *= shrink;
        }
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            uint at = row * P_STRIDE + first_n + j * GROUPS;
            if (p_tile[at] != UNSEEN) {
                float p = exp_f32(scores[i * TN + j] - best);
                total[i] += p;
                p_tile[at] = p;
            }
        }
    }
}

// add_values adds the weighted values of keys from first on. At an edge a row must not meet what it does not see: 0·NaN is NaN.
void add_values(uint me, int first, int end, bool edge) {
    for (uint step = 0u; step < BN && first + int(step) < end; step += BV) {
        load_values(me, first + int(step), end);
        barrier();
        if (edge) {
            [[dont_unroll]] for (uint key = 0u; key < BV; key++) {
                [[unroll]] for (uint i = 0u; i < TM; i++) {
                    float p = p_tile[(first_m + i * ROWS_M) * P_STRIDE + step + key];
                    [[unroll]] for (uint c = 0u; c < CV; c++) {
                        vec4 v = kv_tile[key * VQ + min(first_n + c * GROUPS, VQ - 1u)];
                        sums[i * CV + c] = p == UNSEEN ? sums[i * CV + c] : fma(vec4(p), v, sums[i * CV + c]);
                    }
                }
            }
        } else {
            [[dont_unroll]] for (uint start = 0u; start < BV; start += UV) {
                [[unroll]] for (uint u = 0u; u < UV; u++) {
                    vec4 v[CV];
                    [[unroll]] for (uint c = 0u; c < CV; c++) {
                        v[c] = kv_tile[(start + u) * VQ + min(first_n + c * GROUPS, VQ - 1u)];
                    }
                    [[unroll]] for (uint i = 0u; i < TM; i++) {
                        float p = p_tile[(first_m + i * ROWS_M) * P_STRIDE + step + start + u];
                        [[unroll]] for (uint c = 0u; c < CV; c++) {
                            sums[i * CV + c] = fma(vec4(p), v[c], sums[i * CV + c]);
                        }
                    }
                }
            }
        }
        barrier();
    }
}

void main() {
    if (!find_rows()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    first_m = me / GROUPS;
    first_n = me % GROUPS;
    find_q_rows(me);
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        top[i] = LOWEST;
        total[i] = 0.0;
    }
    [[unroll]] for (uint i = 0u; i < TM * CV; i++) {
        sums[i] = vec4(0.0);
    }
    // Queries in order see ranges that begin and end in order.
    ivec2 head = visible(query_of(rows.first));
    ivec2 tail = visible(query_of(rows.first + BM - 1u));
    int tiles = (max(tail.y - head.x, 0) + int(BN) - 1) / int(BN);
    int per_split = (tiles + int(push.splits) - 1) / int(push.splits);
    int start = head.x + int(rows.split) * per_split * int(BN);
    int end = min(tail.y, start + per_split * int(BN));
    for (int first = start; first < end; first += int(BN)) {
        bool edge = first < tail.x || first + int(BN) > min(head.y, end);
        score(me, first, end, first == start);
        weigh(first, end, edge);
        add_values(me, first, end, edge);
    }
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        part[(first_m + i * ROWS_M) * GROUPS + first_n] = total[i];
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        float sum = 0.0;
        [[unroll]] for (uint g = 0u; g < GROUPS; g++) {
            sum += part[(first_m + i * ROWS_M) * GROUPS + g];
        }
        if (row_of(i) < rows.count) {
            store_result(i, sum);
        }
    }
}
