#version 460
// rope: rotary position embedding (Su et al., arXiv 2104.09864, section 3.4.2) of the heads of T tokens: with p the position of
// token t, the pair of elements (a, b) number i of each head turns by the angle of p and i,
//
//   y_a = x_a · cos − x_b · sin
//   y_b = x_b · cos + x_a · sin       (cos, sin) = table[p][i], which the attention factor is part of
//
// Pairs are (i, i + half), or (2i, 2i + 1) INTERLEAVED, i < half. INVERSE is the transpose, the gradient: sin changes its sign.
// Elements from 2·half on are copied, unless y is x. A position outside [0, positions) makes the pairs NaN.
//
// Push constants: device addresses of x, y of the storage dtype, table f32 [positions, half, 2], index i32 [T] (the position of
// each token); rows = T·heads, heads, items per head, half, width of a head, positions; bytes between tokens and between
// heads of x and of y.
// Mapping: an invocation per item of a head: the first ⌈half/2⌉ are two pairs each, the others four copied elements.
// Arithmetic: f32.
// Oracle: internal/ref/rope.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint COLUMNS = 32;
layout(constant_id = 1) const uint ROWS = 2;
layout(constant_id = 2) const bool INTERLEAVED = false;
layout(constant_id = 3) const bool INVERSE = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 y;
    uvec2 table;
    uvec2 index;
    uint rows;
    uint heads;
    uint items;
    uint half_width;
    uint width;
    uint positions;
    uint x_token;
    uint x_head;
    uint y_token;
    uint y_head;
} push;

const bool QUADS = false;

#include "include/elementwise.glsl"

// turn rotates the pair (a, b) by the angle i of a row of the table.
vec2 turn(uvec2 angles, uint i, bool known, float a, float b) {
    float c = load_f32(angles, 2u * i);
    float s = load_f32(angles, 2u * i + 1u);
    if (INVERSE) {
        s = -s;
    }
    return known ? vec2(a * c - b * s, b * c + a * s) : vec2(NAN);
}

// turn_two rotates the pairs i and, where count is 2, i + 1.
void turn_two(uvec2 x, uvec2 y, uvec2 angles, uint i, uint count, bool known) {
    if (INTERLEAVED) {
        for (uint c = i; c < i + count; c++) {
            store_value2(y, 2u * c, turn(angles, c, known, load_value(x, 2u * c), load_value(x, 2u * c + 1u)));
        }
        return;
    }
    uint h = push.half_width;
    vec2 first = turn(angles, i, known, load_value(x, i), load_value(x, h + i));
    vec2 second = vec2(0.0);
    if (count == 2u) {
        second = turn(angles, i + 1u, known, load_value(x, i + 1u), load_value(x, h + i + 1u));
    }
    store_some2(y, i, vec2(first.x, second.x), count);
    store_some2(y, h + i, vec2(first.y, second.y), count);
}

void main() {
    uint row, item;
    if (!find_element(push.rows, push.items, row, item)) {
        return;
    }
    uint token = row / push.heads;
    uint head = row - token * push.heads;
    uvec2 x = address_at(address_at(push.x, token, push.x_token), head, push.x_head);
    uvec2 y = address_at(address_at(push.y, token, push.y_token), head, push.y_head);
    uint turns = (push.half_width + 1u) / 2u;
    if (item >= turns) {
        uint from = 2u * push.half_width + 4u * (item - turns);
        for (uint c = from; c < min(from + 4u, push.width); c += 2u) {
            uint count = min(push.width - c, 2u);
            store_some2(y, c, vec2(load_value(x, c), count == 2u ? load_value(x, c + 1u) : 0.0), count);
        }
        return;
    }
    uint position = uint(load_i32(push.index, token));
    bool known = position < push.positions;
    uvec2 angles = address_at(push.table, known ? position : 0u, 8u * push.half_width);
    turn_two(x, y, angles, 2u * item, min(push.half_width - 2u * item, 2u), known);
}
