#version 460
// embedding_backward: the gradient of an embedding's table.
//
//   dTable[v] = scale · Σ dy[t] over the tokens t with ids[t] = v, ascending
//
// Only rows that a token names are written; ACCUMULATE adds to them. Ids outside [0, V) take no part. The lists are those of
// token_links: an invocation that belongs to the first token of an id follows them, so nothing is added by atomics and
// results repeat exactly.
//
// Push constants: device addresses of ids, next and previous i32 [T], dy [T,D] of the storage dtype and dTable [V,D] (f32
// with OUTPUT_F32); T, D, V, scale.
// Mapping: COLUMNS × ROWS invocations, each one column of one token.
// Accumulation: f32.
// Oracle: internal/ref/embedding.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool ACCUMULATE = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 next;
    uvec2 previous;
    uvec2 dy;
    uvec2 table;
    uint tokens;
    uint width;
    uint vocabulary;
    float scale;
} push;

const bool QUADS = false;
#include "include/elementwise.glsl"

void main() {
    uint token, column;
    if (!find_element(push.tokens, push.width, token, column)) {
        return;
    }
    uint id = uint(load_i32(push.ids, token));
    if (load_i32(push.previous, token) >= 0 || id >= push.vocabulary) {
        return;
    }
    float sum = 0.0;
    for (uint t = token; t < push.tokens; t = uint(load_i32(push.next, t))) {
        sum += load_value(address_at(push.dy, t, push.width * VALUE_BYTES), column);
    }
    uvec2 row = address_at(push.table, id, push.width * OUTPUT_BYTES);
    float v = push.scale * sum;
    if (ACCUMULATE) {
        v += load_output(row, column);
    }
    store_output(row, column, v);
}
