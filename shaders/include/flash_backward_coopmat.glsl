// What the kernels of flash attention's backward pass on cooperative matrices share: a work-group owns BM = OWN neighbouring
// rows of one side, queries or keys, and walks BN rows of the other side at a time. Matrices have own rows down and the other
// side's across. A subgroup's own rows of the first operand (q or k) stay in its registers, those of the second (dOut or v) do
// where KEEP, else in shared memory. EARLY fetches the next rows of the other side while these are multiplied. WANTS says what
// is to be computed: 1, what follows from ds, and 2, what follows from p, the sums of which need not stay side by side.
//
// Needs coopmat.glsl, the push constants of the portable kernel, and OWN_QUERIES, 1 or 0.
#ifndef FLASH_BACKWARD_COOPMAT_GLSL
#define FLASH_BACKWARD_COOPMAT_GLSL

#include "float.glsl"
#include "flash_coopmat.glsl"

layout(constant_id = 14) const float SCALE = 1.0;
layout(constant_id = 15) const bool CAUSAL = false;
layout(constant_id = 16) const bool TILED = false;
layout(constant_id = 17) const bool ACCUMULATE = false;
layout(constant_id = 18) const bool KEEP = true;
layout(constant_id = 19) const bool EARLY = true;
layout(constant_id = 20) const uint HEAD_MAJOR = 0;
layout(constant_id = 21) const uint Q_STRIDE = 64;
layout(constant_id = 22) const uint K_STRIDE = 64;
layout(constant_id = 23) const uint V_STRIDE = 64;
layout(constant_id = 24) const uint DOUT_STRIDE = 64;
layout(constant_id = 25) const uint WANTS = 3;

const uint OWN = BM;
#include "flash_backward_rows.glsl"

const uint NJ = BN / MN;
const uint KSTEPS = WIDTH / MK;
const uint VSTEPS = VALUE_WIDTH / MK;
const uint P_ROW = BN / 8u + 1u;
const uint K_LOADS = (BN * KQ + THREADS - 1u) / THREADS;
const uint V_LOADS = (BN * VQ + THREADS - 1u) / THREADS;

// Chunks of shared memory: both tiles of the other side, strips of ds and of p, the second operand's own rows, and of each
// query of the other side its LSE in units of ln 2 and its delta.
const uint V_FIRST = BN * K_ROW;
const uint DS_FIRST = V_FIRST + BN * V_ROW;
const uint P_FIRST = DS_FIRST + BM * P_ROW;
const uint OWN_FIRST = P_FIRST + (OWN_QUERIES == 1 ? 0u : BM * P_ROW);
const uint STATISTICS = OWN_FIRST + (KEEP ? 0u : BM * V_ROW);
const uint LOOP_CHUNKS = STATISTICS + (OWN_QUERIES == 1 ? 0u : (BN + 1u) / 2u);
const uint WIDE_ROW = K_ROW > V_ROW ? K_ROW : V_ROW;
const uint OWN_END = (KEEP ? 0u : OWN_FIRST) + BM * WIDE_ROW;  // while own rows are on their way to registers
const uint END_ROW = MN / 4u + 1u;
const uint END_CHUNKS = SUBGROUPS * MM * END_ROW; // results on their way to memory
const uint MOST_A = LOOP_CHUNKS > OWN_END ? LOOP_CHUNKS : OWN_END;
const uint CHUNKS = MOST_A > END_CHUNKS ? MOST_A : END_CHUNKS;

// One memory under four types.
layout(std430) shared AsChunks { uvec4 chunks[CHUNKS]; };
layout(std430) shared AsElements { ELEMENT elements[8u * CHUNKS]; };
layout(std430) shared AsWords { uint words[4u * CHUNKS]; };
layout(std430) shared AsFloats { float floats[4u * CHUNKS]; };

coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> own_k[MI * KSTEPS];
coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> own_v[KEEP ? MI * VSTEPS : 1u];
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> scores[MI * NJ];   // q·k
coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> products[MI * NJ]; // dOut·v
uvec4 k_next[K_LOADS];
uvec4 v_next[V_LOADS];
vec2 next_statistics;
uint first_m; // the subgroup's first row within the tile

// put_own brings own rows to shared memory; those beyond the last repeat it.
void put_own(Span own, uint to, uint across, uint stride) {
    for (uint at = gl_LocalInvocationID.x; at < BM * across; at += THREADS) {
        chunks[to + at / across * stride + at % across] = Chunks(row_of(own, min(at / across, own.count - 1u))).at[at % across];
    }
    barrier();
}

// take_own finds where this invocation's elements are, and brings the own rows where they stay.
void take_own(Span k, Span v) {
    FIND_PLACES(floats)
    put_own(k, 0u, KQ, K_ROW);
    [[unroll]] for (uint i = 0u; i < MI * KSTEPS; i++) {
        uint from = (first_m + i / KSTEPS * MM) * K_ROW;
        coopMatLoad(own_k[i], elements, 8u * from + i % KSTEPS * MK, 8u * K_ROW, gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    put_own(v, KEEP ? 0u : OWN_FIRST, VQ, V_ROW);
    if (KEEP) {
        [[unroll]] for (uint i = 0u; i < MI * VSTEPS; i++) {
            uint from = (first_m + i / VSTEPS * MM) * V_ROW;
            coopMatLoad(own_v[i], elements, 8u * from + i % VSTEPS * MK, 8u * V_ROW, gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();
    }
}

// fetch starts the loads of BN rows of the other side; those beyond the last repeat it.
void fetch(uint me, Span k, Span v) {
    [[unroll]] for (uint i = 0u; i < K_LOADS; i++) {
        uint at = me + i * THREADS;
        k_next[i] = Chunks(row_of(k, min(at / KQ, k.count - 1u))).at[at % KQ];
    }
    [[unroll]] for (uint i = 0u; i < V_LOADS; i++) {
        uint at = me + i * THREADS;
        v_next[i] = Chunks(row_of(v, min(at / VQ, v.count - 1u))).at[at % VQ];
    }
}

// put moves them to shared memory.
void put(uint me) {
    [[unroll]] for (uint i = 0u; i < K_LOADS; i++) {
        uint at = me + i * THREADS;
        if (BN * KQ % THREADS == 0u || at < BN * KQ) {
            chunks[at / KQ * K_ROW + at % KQ] = k_next[i];
        }
    }
    [[unroll]] for (uint i = 0u; i < V_LOADS; i++) {
        uint at = me + i * THREADS;
        if (BN * VQ % THREADS == 0u || at < BN * VQ) {
            chunks[V_FIRST + at / VQ * V_ROW + at % VQ] = v_next[i];
        }
    }
}

// multiply computes scores and products of the tile's pairs.
void multiply() {
    [[unroll]] for (uint i = 0u; i < MI * NJ; i++) {
        scores[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
        products[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> other;
    [[unroll]] for (uint t = 0u; t < KSTEPS; t++) {
        [[unroll]] for (uint j = 0u; j < NJ; j++) {
            coopMatLoad(other, elements, 8u * j * MN * K_ROW + t * MK, 8u * K_ROW, gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint i = 0u; i < MI; i++) {
                scores[i * NJ + j] = coopMatMulAdd(own_k[i * KSTEPS + t], other, scores[i * NJ + j]);
            }
        }
    }
    [[unroll]] for (uint t = 0u; t < ((WANTS & 1u) != 0u ? VSTEPS : 0u); t++) {
        coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> own[MI];
        [[unroll]] for (uint i = 0u; i < MI; i++) {
            if (KEEP) {
                own[i] = own_v[i * VSTEPS + t];
            } else {
                coopMatLoad(own[i], elements, 8u * (OWN_FIRST + (first_m + i * MM) * V_ROW) + t * MK, 8u * V_ROW,
                    gl_CooperativeMatrixLayoutRowMajor);
            }
        }
        [[unroll]] for (uint j = 0u; j < NJ; j++) {
            coopMatLoad(other, elements, 8u * (V_FIRST + j * MN * V_ROW) + t * MK, 8u * V_ROW, gl_CooperativeMatrixLayoutColumnMajor);
            [[unroll]] for (uint i = 0u; i < MI; i++) {
                products[i * NJ + j] = coopMatMulAdd(own[i], other, products[i * NJ + j]);
            }
        }
    }
}

// weigh_pair turns an element of scores and products into p and ds/SCALE; statistics are the query's.
vec2 weigh_pair(float qk, float dout_v, vec2 statistics) {
    if (CAP > 0.0) {
        float t = tanh_f32(qk * SCALE / CAP);
        float p = exp2(CAP * LOG2_E * t - statistics.x);
        return vec2(p, p * (dout_v - statistics.y) * ((1.0 - t) * (1.0 + t)));
    }
    float p = exp2(fma(qk, SCALE * LOG2_E, -statistics.x));
    return vec2(p, p * (dout_v - statistics.y));
}

// statistics_at are those of a row and head.
vec2 statistics_at(uint row, uint head) {
    uint heads = kv_heads() * group_heads();
    return vec2(load_f32(address_at(push.lse, row, heads * 4u), head) * LOG2_E, load_f32(address_at(push.delta, row, heads * 4u), head));
}

// put_element stores one element of a matrix of weights, or two neighbours, in a strip.
void put_element(uint strip, uint i, uint j, uint e, vec2 v) {
    uint at = 8u * (strip + (first_m + i * MM + my_rows[slot_of(e)]) * P_ROW) + j * MN;
    if (PAIRS) {
        words[at / 2u + my_columns[class_of(e)] / 2u] = pack(v);
    } else {
        elements[at + my_columns[class_of(e)]] = element_of(pack(v));
    }
}

// ADD_PRODUCTS adds the products of a strip of weights with a tile of the other side to sums.
#define ADD_PRODUCTS(sums, strip, tile, stride, width) \
    [[unroll]] for (uint t = 0u; t < BN / MK; t++) { \
        coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> weights[MI]; \
        [[unroll]] for (uint i = 0u; i < MI; i++) { \
            coopMatLoad(weights[i], elements, 8u * ((strip) + (first_m + i * MM) * P_ROW) + t * MK, 8u * P_ROW, \
                gl_CooperativeMatrixLayoutRowMajor); \
        } \
        [[unroll]] for (uint n = 0u; n < (width) / MN; n++) { \
            coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> other; \
            coopMatLoad(other, elements, 8u * ((tile) + t * MK * (stride)) + n * MN, 8u * (stride), gl_CooperativeMatrixLayoutRowMajor); \
            [[unroll]] for (uint i = 0u; i < MI; i++) { \
                sums[i * ((width) / MN) + n] = coopMatMulAdd(weights[i], other, sums[i * ((width) / MN) + n]); \
            } \
        } \
    }

// STORE_SUMS stores own rows of gradients, times factor, or adds them to what is there, a matrix at a time.
#define STORE_SUMS(sums, own, width, factor) \
    [[unroll]] for (uint i = 0u; i < MI * ((width) / MN); i++) { \
        uint strip = gl_SubgroupID * MM * END_ROW; \
        subgroup_sync(); \
        coopMatStore(sums[i], floats, 4u * strip, 4u * END_ROW, gl_CooperativeMatrixLayoutRowMajor); \
        subgroup_sync(); \
        for (uint at = gl_SubgroupInvocationID; at < MM * MN / 8u; at += SUBGROUP) { \
            store_chunk(own, first_m + i / ((width) / MN) * MM + at / (MN / 8u), i % ((width) / MN) * (MN / 8u) + at % (MN / 8u), \
                strip + at / (MN / 8u) * END_ROW + at % (MN / 8u) * 2u, factor); \
        } \
    }

// store_chunk stores eight columns of an own row, which lie in two chunks from from on.
void store_chunk(Span own, uint row, uint chunk, uint from, float factor) {
    if (row < own.count) {
        vec4 low = uintBitsToFloat(chunks[from]) * factor;
        vec4 high = uintBitsToFloat(chunks[from + 1u]) * factor;
        uvec2 to = row_of(own, row);
        if (ACCUMULATE) {
            uvec4 before = ChunksInOut(to).at[chunk];
            low += low_of(before);
            high += high_of(before);
        }
        ChunksInOut(to).at[chunk] = chunk_of(low, high);
    }
}

#endif
