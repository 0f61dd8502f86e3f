#version 460
// rms_norm: root mean square normalization (Zhang and Sennrich, arXiv 1910.07467) of each head of T tokens, n values wide:
//
//   y_c = w_c · x_c / √(Σ x² / n + eps)
//
// One head of n values is a row. y may be x.
//
// Push constants: device addresses of x, y of the storage dtype, w [n] of the storage dtype, or f32 with INPUT_F32; rows =
// T·heads, heads, n, eps; bytes between tokens and between heads of x and of y.
// Mapping: a team of LANES invocations per head, ROWS heads per work-group. QUADS: n is a multiple of 4, and everything is
// aligned to four values.
// Accumulation: f32, per lane and then by a fixed tree.
// Oracle: internal/ref/rms_norm.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint LANES = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool QUADS = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 y;
    uvec2 w;
    uint rows;
    uint heads;
    uint width;
    float eps;
    uint x_token;
    uint x_head;
    uint y_token;
    uint y_head;
} push;

#include "include/row_totals.glsl"
#include "include/head_rows.glsl"

void main() {
    uint row = group_id() * ROWS + gl_LocalInvocationID.y;
    if (group_id() * ROWS >= push.rows) {
        return;
    }
    bool mine = row < push.rows;
    uint token = mine ? row / push.heads : 0u;
    uint head = mine ? row - token * push.heads : 0u;
    uvec2 x = address_at(address_at(push.x, token, push.x_token), head, push.x_head);
    uvec2 y = address_at(address_at(push.y, token, push.y_token), head, push.y_head);
    uint end = mine ? push.width : 0u;
    float squares = 0.0;
    for (uint c = 4u * gl_LocalInvocationID.x; c < end; c += 4u * LANES) {
        vec4 v = load_quad(x, c, end, QUADS);
        squares += dot(v, v);
    }
    squares = row_totals(vec2(squares, 0.0)).x;
    float scale = inversesqrt(squares / float(push.width) + push.eps);
    for (uint c = 4u * gl_LocalInvocationID.x; c < end; c += 4u * LANES) {
        vec4 v = load_quad(x, c, end, QUADS) * scale * load_input_quad(push.w, c, end, QUADS);
        store_quad(y, c, end, v);
    }
}
