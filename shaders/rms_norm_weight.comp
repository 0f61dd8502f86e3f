#version 460
// rms_norm_weight: the gradient of rms_norm's weight, summed over all heads of all tokens:
//
//   dw_c = Σ_r dy[r][c] · x[r][c] · s[r]
//
// Each block of per_block rows leaves its f32 sums in partials [blocks, n]; REDUCE then adds these up, and does all
// where one block has all rows. ACCUMULATE, with REDUCE, adds to dw.
//
// Push constants: device addresses of x, dy of the storage dtype, s f32 [rows], partials f32 [blocks, n], dw [n] of the
// storage dtype, or f32 with OUTPUT_F32; rows, rows of a block, blocks, heads, n; bytes between tokens and
// between heads of x and of dy. With PARTIALS the terms are the partial sums: rows counts these, and there is one block.
// Mapping: a work-group of COLUMNS × ROWS invocations per block and COLUMNS columns; an invocation adds every ROWS-th row.
// Accumulation: f32, rows ascending, then the ROWS partial sums in order.
// Oracle: internal/ref/rms_norm.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 32;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const bool PARTIALS = false;
layout(constant_id = 3) const bool REDUCE = false;
layout(constant_id = 4) const bool ACCUMULATE = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 dy;
    uvec2 s;
    uvec2 partials;
    uvec2 dw;
    uint rows;
    uint per_block;
    uint blocks;
    uint heads;
    uint width;
    uint x_token;
    uint x_head;
    uint dy_token;
    uint dy_head;
} push;

shared float sums[COLUMNS * ROWS];

// term is one row's value of a column.
float term(uint row, uint column) {
    if (PARTIALS) {
        return load_f32(address_at(push.partials, row, 4u * push.width), column);
    }
    uint token = row / push.heads;
    uint head = row - token * push.heads;
    float x = load_value(address_at(address_at(push.x, token, push.x_token), head, push.x_head), column);
    float dy = load_value(address_at(address_at(push.dy, token, push.dy_token), head, push.dy_head), column);
    return dy * x * load_f32(push.s, row);
}

void main() {
    uint per_block = (push.width + COLUMNS - 1u) / COLUMNS;
    uint block = group_id() / per_block;
    if (block >= push.blocks) {
        return;
    }
    uint column = (group_id() - block * per_block) * COLUMNS + gl_LocalInvocationID.x;
    uint first = block * push.per_block;
    uint end = first + min(push.per_block, push.rows - first);
    float sum = 0.0;
    for (uint row = first + gl_LocalInvocationID.y; row < end && column < push.width; row += ROWS) {
        sum += term(row, column);
    }
    sums[gl_LocalInvocationID.y * COLUMNS + gl_LocalInvocationID.x] = sum;
    barrier();
    if (gl_LocalInvocationID.y > 0u || column >= push.width) {
        return;
    }
    for (uint r = 1u; r < ROWS; r++) {
        sum += sums[r * COLUMNS + gl_LocalInvocationID.x];
    }
    if (REDUCE) {
        store_output(push.dw, column, ACCUMULATE ? load_output(push.dw, column) + sum : sum);
    } else {
        store_f32(address_at(push.partials, block, 4u * push.width), column, sum);
    }
}
