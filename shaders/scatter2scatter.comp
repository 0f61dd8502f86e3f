#version 460
// scatter2scatter: ParallelLinear (Tan et al., arXiv 2403.08245, section 3). For every grouped position p of expert e,
// with slot s = order[p]:
//
//   y[row_out] = gate[s] · (W[e] · x[row_in] + b[e])
//   row_in  = p when X_GROUPED, else s / fan_in     (fan_in = k for x [T,in], 1 for x [T·k,in])
//   row_out = p when Y_GROUPED, else s
//
// W is [E,out,in], or [E,in,out] when TRANSPOSED. DENSE is a plain linear layer: one expert, slot = position = row, no
// order and no tile map. Storage dtype: that of W and bias, and of x unless INPUT_F32 and of y unless OUTPUT_F32. W and
// bias are addresses of tables of one address per expert where W_TABLE and BIAS_TABLE say so (include/bank.glsl).
// ACCUMULATE adds the result to what y holds. Quantized weights (include/weights.glsl) are [E,out,in] and not TRANSPOSED.
// With an ACTIVATION (include/epilogue.glsl) the result is h instead, and y, which may be null, is what it is made of.
// Push constants: device addresses of x, w, y, bias [E,out] (0: none), gates f32 [T·k] (0: none), order i32 [T·k],
// tiles i32 [tiles, 3], tile_args u32 [4] (word 3: number of tiles), h; in, out, fan_in, rows (DENSE:
// number of rows, else the length of tiles), flags, alpha and limit of the activation, window (include/scatter2scatter.glsl).
// Mapping: one work-group per BM × BN tile of y, tiles of out fastest: tile id = group / ⌈out / BN⌉. An invocation owns
// TM × TN results, BM/TM and BN/TN apart, so THREADS = (BM / TM)·(BN / TN). BK inputs at a time pass through shared
// memory, four to a vec4; BK is a multiple of 4 and THREADS one of BK / 4 (of BN / 4 when TRANSPOSED).
// QUADS allows loads of four values: in (out for a transposed W) is a multiple of 4, and x and all of w are aligned to
// that. Where y is 16 bits wide and TN even, an invocation owns pairs of columns and so whole words of y.
// Where GATED, the first half of a tile's columns are gates and the second the ups that they meet, which are the same
// invocation's; TN is even, BN a multiple of 8, and W_QUADS asks a TRANSPOSED W whose gates come first for H % 4 = 0 too.
// Accumulation: f32, inputs in ascending order, so a row's result does not depend on its place in a tile.
// Oracle: internal/ref/scatter2scatter.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/quads.glsl"
#include "include/bank.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint BM = 32;
layout(constant_id = 2) const uint BN = 32;
layout(constant_id = 3) const uint BK = 16;
layout(constant_id = 4) const uint TM = 4;
layout(constant_id = 5) const uint TN = 4;
layout(constant_id = 6) const bool X_QUADS = false;
layout(constant_id = 7) const bool W_QUADS = false;
layout(constant_id = 8) const bool TRANSPOSED = false;
layout(constant_id = 9) const bool SHORT = false; // tiles of at most half their rows take less time; TM is a multiple of 4
layout(constant_id = 10) const uint ACTIVATION = 7; // LINEAR of include/epilogue.glsl
layout(constant_id = 11) const bool GATED = false;
layout(constant_id = 12) const bool INTERLEAVED = false; // only where GATED
layout(local_size_x_id = 0) in;

#include "include/scatter2scatter.glsl"
#include "include/weights.glsl"
#include "include/epilogue_pairs.glsl"

const uint KQ = BK / 4u;                              // vec4s along k
const uint STRIDE = KQ + 1u;                          // padded, against bank conflicts
const uint ROWS_M = BM / TM;                          // distance between an invocation's rows of y
const uint ROWS_N = BN / TN;                          // distance between its columns
const uint X_LOADS = (BM * KQ + THREADS - 1u) / THREADS; // vec4s of x that an invocation loads per step
const uint W_LOADS = (BN * KQ + THREADS - 1u) / THREADS;
const uint OWN = GATED ? TN / 2u : TN;                // columns of y or h that an invocation stores
#ifdef OUTPUT_16BIT
const uint STEP = 2u - OWN % 2u;                      // of them at once
#else
const uint STEP = 1u;
#endif
const bool PAIRS = STEP == 2u;

shared vec4 x_tile[BM * STRIDE]; // [m][k / 4]
shared vec4 w_tile[BN * STRIDE]; // [n][k / 4]

uvec2 x_rows[X_LOADS]; // bases of the rows of x that this invocation loads, one per load of a step
uvec2 w_rows[W_LOADS]; // likewise of W: rows of outputs, or the expert's matrix when TRANSPOSED
#ifdef WEIGHTS_Q4
uvec2 w_scales[W_LOADS]; // and of their scales
#endif
float sums[TM * TN];

#include "include/scatter2scatter_columns.glsl"

// find_x_rows fills x_rows. Rows beyond the expert's end repeat its last row: their results are never stored.
void find_x_rows(uint me) {
    [[unroll]] for (uint i = 0u; i < X_LOADS; i++) {
        uint position = min(tile.first + (me + i * THREADS) / KQ, tile.end - 1u);
        uint row = position;
        if (!has(X_GROUPED)) {
            row = slot_of(position);
            row = push.fan_in == 1u ? row : row / push.fan_in;
        }
        x_rows[i] = address_at(push.x, row, push.in_width * INPUT_BYTES);
    }
}

void find_w_rows(uint me) {
#ifdef WEIGHTS_QUANTIZED
    uvec2 matrix = expert_codes();
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        uint n = output_at((me + i * THREADS) / KQ);
        w_rows[i] = row_codes(matrix, n);
#ifdef WEIGHTS_Q4
        w_scales[i] = row_scales(matrix, n);
#endif
    }
#else
    uint rows = TRANSPOSED ? push.in_width : push.out_width;
    uint row_bytes = (TRANSPOSED ? push.out_width : push.in_width) * VALUE_BYTES;
    uvec2 matrix = expert_base(push.w, has(W_TABLE), tile.expert, rows, row_bytes);
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        w_rows[i] = matrix;
        if (!TRANSPOSED) {
            uint n = output_at((me + i * THREADS) / KQ);
            w_rows[i] = address_at(matrix, n, row_bytes);
        }
    }
#endif
}

// load_w loads four weights of load i of a step, or their codes where the scale is the row's.
vec4 load_w(uint i, uint k) {
#ifdef WEIGHTS_QUANTIZED
    if (k >= push.in_width) {
        return vec4(0.0);
    }
    vec4 v = load_codes4(w_rows[i], k);
#ifdef WEIGHTS_Q4
    v *= scale_of(load_scale_bits(w_scales[i], k / 32u), false);
#endif
    return v;
#else
    return load_quad(w_rows[i], k, push.in_width, W_QUADS);
#endif
}

// load_step brings inputs [k, k + BK) of the tile's rows of x and W to shared memory.
void load_step(uint me, uint k) {
    [[unroll]] for (uint i = 0u; i < X_LOADS; i++) {
        uint at = me + i * THREADS;
        uint row = at / KQ;
        uint quad = at % KQ;
        if (row < BM) {
            x_tile[row * STRIDE + quad] = load_input_quad(x_rows[i], k + 4u * quad, push.in_width, X_QUADS);
        }
    }
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        uint at = me + i * THREADS;
        if (TRANSPOSED) {
            uint row = at / (BN / 4u); // of inputs
            uint quad = at % (BN / 4u);
            if (row < BK) {
                uvec2 base = address_at(w_rows[i], min(k + row, push.in_width - 1u), push.out_width * VALUE_BYTES);
                vec4 v = load_quad(base, output_of_quad(quad), push.out_width, W_QUADS);
                v = k + row < push.in_width ? v : vec4(0.0);
                [[unroll]] for (uint c = 0u; c < 4u; c++) {
                    w_tile[column_of_quad(quad, c) * STRIDE + row / 4u][row % 4u] = v[c];
                }
            }
        } else {
            uint row = at / KQ;
            uint quad = at % KQ;
            if (row < BN) {
                w_tile[row * STRIDE + quad] = load_w(i, k + 4u * quad);
            }
        }
    }
}

// multiply_step adds the products of the step in shared memory for the first `rows` rows of each invocation.
void multiply_step(uint rows, uint first_m, uint first_n) {
    [[unroll]] for (uint q = 0u; q < KQ; q++) {
        vec4 w[TN];
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            w[j] = w_tile[column_of(first_n, j) * STRIDE + q];
        }
        [[unroll]] for (uint i = 0u; i < rows; i++) {
            vec4 x = x_tile[(first_m + i * ROWS_M) * STRIDE + q];
            [[unroll]] for (uint j = 0u; j < TN; j++) {
                float sum = sums[i * TN + j];
                sum = fma(x.x, w[j].x, sum);
                sum = fma(x.y, w[j].y, sum);
                sum = fma(x.z, w[j].z, sum);
                sums[i * TN + j] = fma(x.w, w[j].w, sum);
            }
        }
    }
}

// multiply_rows is multiply_step for as many rows as there are, or more.
void multiply_rows(uint first_m, uint first_n) {
    uint rows = tile.end - tile.first;
    if (SHORT && rows <= ROWS_M * (TM / 4u)) {
        multiply_step(TM / 4u, first_m, first_n);
    } else if (SHORT && rows <= ROWS_M * (TM / 2u)) {
        multiply_step(TM / 2u, first_m, first_n);
    } else {
        multiply_step(TM, first_m, first_n);
    }
}

// store_results adds the bias, applies the activation and the gates and scatters the rows.
void store_results(uint first_m, uint first_n) {
    bool biased = !address_is_null(push.bias);
    bool gated = !address_is_null(push.gates);
    uvec2 bias_row = expert_base(biased ? push.bias : push.w, has(BIAS_TABLE), tile.expert, 1u, push.out_width * VALUE_BYTES);
    float bias[TN];
#ifdef WEIGHTS_INT8
    uvec2 scales = row_scales(expert_codes(), 0u);
    [[unroll]] for (uint j = 0u; j < TN; j++) {
        float scale = load_f32(scales, output_at(column_of(first_n, j)));
        [[unroll]] for (uint i = 0u; i < TM; i++) {
            sums[i * TN + j] *= scale;
        }
    }
#endif
    [[unroll]] for (uint j = 0u; j < TN; j++) {
        bias[j] = biased ? load_value(bias_row, output_at(column_of(first_n, j))) : 0.0;
    }
    if (ACTIVATION != LINEAR) {
        store_activated_rows(first_m, first_n, gated, bias);
        return;
    }
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        uint position = tile.first + first_m + i * ROWS_M;
        if (position < tile.end) {
            uint slot = has(Y_GROUPED) && !gated ? position : slot_of(position);
            float gate = gated ? load_f32(push.gates, slot) : 1.0;
            uvec2 row = address_at(push.y, has(Y_GROUPED) ? position : slot, push.row_width * OUTPUT_BYTES);
            [[unroll]] for (uint j = 0u; j < TN; j += STEP) {
                uint next = j + STEP - 1u;
                vec2 v = vec2(sums[i * TN + j] + bias[j], sums[i * TN + next] + bias[next]) * gate;
                store_pair(row, tile.column + column_of(first_n, j), push.end_out, v, PAIRS, has(ACCUMULATE));
            }
        }
    }
}

void main() {
    if (!find_tile()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint first_m = me / ROWS_N;
    uint first_n = me % ROWS_N;
    find_x_rows(me);
    find_w_rows(me);
    [[unroll]] for (uint i = 0u; i < TM * TN; i++) {
        sums[i] = 0.0;
    }
    for (uint k = 0u; k < push.in_width; k += BK) {
        load_step(me, k);
        barrier();
        multiply_rows(first_m, first_n);
        barrier();
    }
    store_results(first_m, first_n);
}
