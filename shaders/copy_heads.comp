#version 460
// copy_heads: copies heads of one width from one place to another:
//
//   y[t][h][i] = x[t][h][i]
//
// Push constants: device addresses of x, y of the storage dtype; rows = T·heads, heads, width; bytes between tokens and between
// heads of x and of y.
// Mapping: an invocation per four elements of a head. QUADS: width is a multiple of 4, and both sides are aligned to four values.
// Oracle: internal/ref/mla.go (splitRows and joinRows)
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 32;
layout(constant_id = 1) const uint ROWS = 2;
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
    uint y_head;
} push;

#include "include/head_rows.glsl"
#include "include/quad_grid.glsl"

void main() {
    uint row, column;
    if (!find_quad(push.rows, push.width, row, column)) {
        return;
    }
    uint token = row / push.heads;
    uint head = row - token * push.heads;
    uvec2 x = address_at(address_at(push.x, token, push.x_token), head, push.x_head);
    uvec2 y = address_at(address_at(push.y, token, push.y_token), head, push.y_head);
    store_quad(y, column, push.width, load_quad(x, column, push.width, QUADS));
}
