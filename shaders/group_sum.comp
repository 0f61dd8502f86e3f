#version 460
// group_sum: the bias gradient of ParallelLinear: per expert the sum over its rows,
//
//   sum[e][c] = Σ_p gate[s] · y[row(p)][c],  s = order[p];  row(p) = p when GROUPED, else s / fan_in
//
// An expert without rows gets zeros. ACCUMULATE adds to sum. Storage dtype: that of y, and of sum unless OUTPUT_F32; with
// SUM_TABLE, sum is the address of a table of one address per expert (include/bank.glsl). DENSE is a plain linear layer: one expert, slot = position
// = row, no order and no offsets.
//
// Push constants: device addresses of y, sum [E,width], gates f32 [T·k] (0: none), order i32 [T·k], offsets i32 [E + 1];
// width, fan_in, E, rows (DENSE: number of rows), skip and most: of each expert's rows, at most so many after the first so
// many, flags.
// Mapping: one work-group of COLUMNS × ROWS invocations per expert and COLUMNS columns; an invocation adds every
// ROWS-th row of a column.
// Accumulation: f32, rows ascending, then the ROWS partial sums in order.
// Oracle: internal/ref/scatter2scatter_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/bank.glsl"

layout(constant_id = 0) const uint COLUMNS = 32;
layout(constant_id = 1) const uint ROWS = 4;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 y;
    uvec2 sum;
    uvec2 gates;
    uvec2 order;
    uvec2 offsets;
    uint width;
    uint fan_in;
    uint experts;
    uint rows;
    uint skip;
    uint most;
    uint flags;
} push;

const uint GROUPED = 1u;
const uint DENSE = 4u;
const uint ACCUMULATE = 8u;
const uint SUM_TABLE = 16u;

shared float partial[COLUMNS * ROWS];

bool has(uint flag) { return (push.flags & flag) != 0u; }

// term is one row's value of a column.
float term(uint position, uint column) {
    bool gated = !address_is_null(push.gates);
    uint slot = position;
    if (!has(DENSE) && (gated || !has(GROUPED))) {
        slot = uint(load_i32(push.order, position));
    }
    uint row = has(DENSE) || has(GROUPED) ? position : slot / push.fan_in;
    float v = load_value(address_at(push.y, row, push.width * VALUE_BYTES), column);
    return gated ? load_f32(push.gates, slot) * v : v;
}

void main() {
    uint per_expert = (push.width + COLUMNS - 1u) / COLUMNS;
    uint expert = group_id() / per_expert;
    if (expert >= push.experts) {
        return;
    }
    uint column = (group_id() - expert * per_expert) * COLUMNS + gl_LocalInvocationID.x;
    uint first = 0u;
    uint end = push.rows;
    if (!has(DENSE)) {
        first = uint(load_i32(push.offsets, expert));
        end = uint(load_i32(push.offsets, expert + 1u));
    }
    first += min(push.skip, end - first);
    end = first + min(push.most, end - first);
    if (first == end && has(ACCUMULATE)) {
        return;
    }
    float sum = 0.0;
    for (uint p = first + gl_LocalInvocationID.y; p < end && column < push.width; p += ROWS) {
        sum += term(p, column);
    }
    partial[gl_LocalInvocationID.y * COLUMNS + gl_LocalInvocationID.x] = sum;
    barrier();
    if (gl_LocalInvocationID.y > 0u || column >= push.width) {
        return;
    }
    for (uint r = 1u; r < ROWS; r++) {
        sum += partial[r * COLUMNS + gl_LocalInvocationID.x];
    }
    uvec2 result = expert_base(push.sum, has(SUM_TABLE), expert, 1u, push.width * OUTPUT_BYTES);
    store_output(result, column, has(ACCUMULATE) ? load_output(result, column) + sum : sum);
}
