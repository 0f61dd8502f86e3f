#version 460
// flash_attention_delta: the row sums that attention's backward pass subtracts (Dao et al., arXiv 2205.14135, appendix B.4),
// for row t and head h:
//
//   delta[t][h] = Σ_c dout[t][h][c] · out[t][h][c]
//
// Push constants: device addresses of out, dout, delta f32 [T,heads]; strides of rows and heads of out and dout, in
// elements; tokens (T), heads, width.
// Mapping: a team of LANES invocations per row and head, heads fastest. QUADS: width is a multiple of 4 and all rows of out and
// dout are aligned to four values.
// Accumulation: f32, per lane and then by a fixed tree.
// Oracle: internal/ref/attention_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/quads.glsl"

layout(constant_id = 0) const uint LANES = 16;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const bool QUADS = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 o;
    uvec2 dout;
    uvec2 delta;
    uint out_row_stride;
    uint out_head_stride;
    uint dout_row_stride;
    uint dout_head_stride;
    uint tokens;
    uint heads;
    uint width;
} push;

#include "include/row_team.glsl"

uvec2 row_of(uvec2 operand, uint token, uint row_stride, uint head, uint head_stride) {
    return address_at(address_at(operand, token, row_stride * VALUE_BYTES), head, head_stride * VALUE_BYTES);
}

void main() {
    uint first = group_id() * ROWS;
    uint count = push.tokens * push.heads;
    if (first >= count) {
        return;
    }
    uint id = first + gl_LocalInvocationID.y;
    uint token = id / push.heads;
    uint head = id % push.heads;
    float sum = 0.0;
    if (id < count) {
        uvec2 a = row_of(push.o, token, push.out_row_stride, head, push.out_head_stride);
        uvec2 b = row_of(push.dout, token, push.dout_row_stride, head, push.dout_head_stride);
        for (uint column = 4u * gl_LocalInvocationID.x; column < push.width; column += 4u * LANES) {
            sum += dot(load_quad(a, column, push.width, QUADS), load_quad(b, column, push.width, QUADS));
        }
    }
    sum = row_sum(sum);
    if (id < count && gl_LocalInvocationID.x == 0u) {
        store_f32(push.delta, id, sum);
    }
}
