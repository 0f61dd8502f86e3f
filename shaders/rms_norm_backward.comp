#version 460
// rms_norm_backward: the gradient of rms_norm's x. With s = 1/√(Σ x² / n + eps) and g = w ∘ dy,
//
//   dx_c = s · (g_c − x_c · s² · Σ g·x / n)
//
// ACCUMULATE adds to dx. It leaves s of every head for rms_norm_weight. dx may be dy or, without ACCUMULATE, x.
//
// Push constants: device addresses of x, dy, dx (0: only s) of the storage dtype, w [n] of the storage dtype, or f32 with
// INPUT_F32, s f32 [T·heads] (0: not wanted); rows = T·heads, heads, n, eps; bytes between tokens and between heads of x, of
// dy and of dx.
// Mapping, accumulation: those of rms_norm.
// Oracle: internal/ref/rms_norm.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint LANES = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool QUADS = false;
layout(constant_id = 3) const bool ACCUMULATE = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 dy;
    uvec2 dx;
    uvec2 w;
    uvec2 s;
    uint rows;
    uint heads;
    uint width;
    float eps;
    uint x_token;
    uint x_head;
    uint dy_token;
    uint dy_head;
    uint dx_token;
    uint dx_head;
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
    uvec2 dy = address_at(address_at(push.dy, token, push.dy_token), head, push.dy_head);
    uvec2 dx = address_at(address_at(push.dx, token, push.dx_token), head, push.dx_head);
    uint end = mine ? push.width : 0u;
    vec2 sums = vec2(0.0);
    for (uint c = 4u * gl_LocalInvocationID.x; c < end; c += 4u * LANES) {
        vec4 v = load_quad(x, c, end, QUADS);
        sums += vec2(dot(v, v), dot(v, load_quad(dy, c, end, QUADS) * load_input_quad(push.w, c, end, QUADS)));
    }
    sums = row_totals(sums) / float(push.width);
    float s = inversesqrt(sums.x + push.eps);
    if (mine && gl_LocalInvocationID.x == 0u && !address_is_null(push.s)) {
        store_f32(push.s, row, s);
    }
    if (address_is_null(push.dx)) {
        return;
    }
    float inward = s * s * sums.y;
    for (uint c = 4u * gl_LocalInvocationID.x; c < end; c += 4u * LANES) {
        vec4 g = load_quad(dy, c, end, QUADS) * load_input_quad(push.w, c, end, QUADS);
        vec4 v = s * (g - load_quad(x, c, end, QUADS) * inward);
        store_quad(dx, c, end, ACCUMULATE ? load_quad(dx, c, end, QUADS) + v : v);
    }
}
