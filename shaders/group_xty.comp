#version 460
// group_xty: the weight gradient of ParallelLinear: per expert a sum of outer products over its rows,
//
//   c[e][m][n] = Σ_p gate[s] · a[row_a(p)][m] · b[row_b(p)][n],  p ascending over the expert's positions, s = order[p]
//   row(p) = p when the matrix is GROUPED, else s / fan_in
//
// With a = dY and b = X it is dW [E,out,in], the other way round [E,in,out]. An expert without rows gets zeros.
// ACCUMULATE adds to c. Storage dtype: that of a and b, and of c unless OUTPUT_F32; with C_TABLE, c is the address of a
// table of one address per expert (include/bank.glsl). DENSE is a plain linear layer: one expert, slot = position = row, no order and no offsets.
//
// Push constants: device addresses of a, b, c [E,M,c_width], gates f32 [T·k] (0: none), order i32 [T·k], offsets i32 [E + 1];
// M, N, fan-in of a and of b, E, rows (DENSE: number of rows), skip and most: of each expert's rows, at most so many after
// the first so many, flags; c_width ≥ N and the column of c that is the first of b.
// Mapping: one work-group per expert and BM × BN tile of c, tiles of N fastest; it walks the expert's rows BK at a time,
// through shared memory. An invocation owns TM × TN results in groups of four neighbours each way, so TM and TN are
// multiples of 4 and THREADS = (BM / TM)·(BN / TN).
// A_QUADS, B_QUADS and C_QUADS allow accesses of four values: the width is a multiple of 4 and the address aligned.
// Accumulation: f32, rows in ascending order.
// Oracle: internal/ref/scatter2scatter_backward.go
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
layout(constant_id = 6) const bool A_QUADS = false;
layout(constant_id = 7) const bool B_QUADS = false;
layout(constant_id = 8) const bool C_QUADS = false;
layout(local_size_x_id = 0) in;

#include "include/group_xty.glsl"

const uint MQ = BM / 4u; // vec4s of a row of the tile of a
const uint NQ = BN / 4u;
const uint ROWS_M = BM / TM; // distance between an invocation's vec4s
const uint ROWS_N = BN / TN;
const uint A_LOADS = (BK * MQ + THREADS - 1u) / THREADS;
const uint B_LOADS = (BK * NQ + THREADS - 1u) / THREADS;

shared vec4 a_tile[BK * MQ]; // [row][m / 4]
shared vec4 b_tile[BK * NQ]; // [row][n / 4]

vec4 sums[TM * TN / 4u]; // [m][n / 4]

// load_step brings BK rows from position on to shared memory; rows at or beyond end are 0.
void load_step(uint me, uint position, uint end, uint first_m, uint first_n) {
    [[unroll]] for (uint i = 0u; i < A_LOADS; i++) {
        uint at = me + i * THREADS;
        uint p = position + at / MQ;
        if (at < BK * MQ) {
            vec4 v = vec4(0.0);
            if (p < end) {
                uvec2 row = address_at(push.a, row_of(p, has(A_GROUPED), push.a_fan_in), push.a_width * VALUE_BYTES);
                v = load_quad(row, first_m + 4u * (at % MQ), push.a_width, A_QUADS);
                if (!address_is_null(push.gates)) {
                    v *= load_f32(push.gates, slot_of(p));
                }
            }
            a_tile[at] = v;
        }
    }
    [[unroll]] for (uint i = 0u; i < B_LOADS; i++) {
        uint at = me + i * THREADS;
        uint p = position + at / NQ;
        if (at < BK * NQ) {
            vec4 v = vec4(0.0);
            if (p < end) {
                uvec2 row = address_at(push.b, row_of(p, has(B_GROUPED), push.b_fan_in), push.b_width * VALUE_BYTES);
                v = load_quad(row, first_n + 4u * (at % NQ), push.b_width, B_QUADS);
            }
            b_tile[at] = v;
        }
    }
}

// multiply_step adds the products of the rows in shared memory.
void multiply_step(uint my_m, uint my_n) {
    for (uint r = 0u; r < BK; r++) {
        vec4 b[TN / 4u];
        [[unroll]] for (uint j = 0u; j < TN / 4u; j++) {
            b[j] = b_tile[r * NQ + my_n + j * ROWS_N];
        }
        [[unroll]] for (uint i = 0u; i < TM / 4u; i++) {
            vec4 a = a_tile[r * MQ + my_m + i * ROWS_M];
            [[unroll]] for (uint m = 0u; m < 4u; m++) {
                [[unroll]] for (uint j = 0u; j < TN / 4u; j++) {
                    uint at = (4u * i + m) * (TN / 4u) + j;
                    sums[at] = fma(vec4(a[m]), b[j], sums[at]);
                }
            }
        }
    }
}

void store_quad(uvec2 row, uint n, vec4 v) {
    if (C_QUADS) {
        if (n < push.b_width) {
            store_output4(row, n, has(ACCUMULATE) ? load_output4(row, n) + v : v);
        }
        return;
    }
    [[unroll]] for (uint c = 0u; c < 4u; c++) {
        if (n + c < push.b_width) {
            store_output(row, n + c, has(ACCUMULATE) ? load_output(row, n + c) + v[c] : v[c]);
        }
    }
}

void main() {
    if (!find_tile()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint my_m = me / ROWS_N;
    uint my_n = me % ROWS_N;
    [[unroll]] for (uint i = 0u; i < TM * TN / 4u; i++) {
        sums[i] = vec4(0.0);
    }
    for (uint p = tile.first; p < tile.end; p += BK) {
        load_step(me, p, tile.end, tile.m, tile.n);
        barrier();
        multiply_step(my_m, my_n);
        barrier();
    }
    uvec2 matrix = c_matrix(tile.expert);
    [[unroll]] for (uint i = 0u; i < TM; i++) {
        uint m = tile.m + 4u * (my_m + i / 4u * ROWS_M) + i % 4u;
        if (m < push.a_width) {
            uvec2 row = c_row(matrix, m);
            [[unroll]] for (uint j = 0u; j < TN / 4u; j++) {
                store_quad(row, tile.n + 4u * (my_n + j * ROWS_N), sums[i * (TN / 4u) + j]);
            }
        }
    }
}
