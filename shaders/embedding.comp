#version 460
// embedding: the rows of a table that tokens name.
//
//   y[t] = scale · table[ids[t]];  0 where ids[t] is outside [0, V)
//
// Push constants: device addresses of ids i32 [T], table [V,D] and y [T,D]; T, D, V, scale.
// Mapping: COLUMNS × ROWS invocations, each one element of y, or four (QUADS: D is a multiple of 4 and both addresses are
// aligned to four values).
// Arithmetic: f32.
// Oracle: internal/ref/embedding.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool QUADS = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 table;
    uvec2 y;
    uint tokens;
    uint width;
    uint vocabulary;
    float scale;
} push;

#include "include/elementwise.glsl"

void main() {
    uint token, column;
    if (!find_element(push.tokens, push.width, token, column)) {
        return;
    }
    uint id = uint(load_i32(push.ids, token));
    bool known = id < push.vocabulary;
    uvec2 row = address_at(push.table, known ? id : 0u, push.width * VALUE_BYTES);
    uvec2 y = address_at(push.y, token, push.width * VALUE_BYTES);
    if (QUADS) {
        vec4 v = push.scale * load_value4(row, column);
        store_value4(y, column, known ? v : vec4(0.0));
    } else {
        float v = push.scale * load_value(row, column);
        store_value(y, column, known ? v : 0.0);
    }
}
