#version 460
// sum_heads: adds up the heads of each token, the gradient of one head that all heads share:
//
//   y[t][i] = Σ_h x[t][h][i]
//
// Push constants: device addresses of x, y of the storage dtype; T, heads, width; bytes between tokens and between heads of x,
// and between tokens of y.
// Mapping: an invocation per four elements of a token. QUADS: width is a multiple of 4, and both sides are aligned to four values.
// Accumulation: f32, heads ascending.
// Oracle: internal/ref/mla_backward.go (sumOverHeads)
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 16;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const bool QUADS = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 y;
    uint rows;
    uint heads;
    uint width;
    uint x_token;
    uint x_head;
    uint y_token;
} push;

#include "include/head_rows.glsl"
#include "include/quad_grid.glsl"

void main() {
    uint token, column;
    if (!find_quad(push.rows, push.width, token, column)) {
        return;
    }
    uvec2 x = address_at(push.x, token, push.x_token);
    vec4 sum = vec4(0.0);
    for (uint head = 0u; head < push.heads; head++) {
        sum += load_quad(address_at(x, head, push.x_head), column, push.width, QUADS);
    }
    store_quad(address_at(push.y, token, push.y_token), column, push.width, sum);
}
