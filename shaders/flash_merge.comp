#version 460
// flash_merge: second pass of flash_attention over split keys. With the splits' maxima m_s, sums of weights l_s and weighted
// sums of values o_s, and m = max m_s:
//
//   L   = Σ_s e^(m_s − m)·l_s + e^(sink − m),   out = Σ_s e^(m_s − m)·o_s / L,   LSE = m + ln L,   s ascending
//
// A row that sees no key gets 0 and the sink, or −Inf, as its LSE. Rows outside all sequences are left alone.
//
// Push constants: device addresses of parts f32 [splits,T·Hq,dv], stats f32 [splits,T·Hq,2], result [T,Hq,dv] (its first
// element), lse f32 [T,Hq] (0: none), sinks f32 [Hq] (0: none), query_offsets i32 [B + 1]; strides of the result's rows and
// heads in bytes; T; Hq; splits; B.
// Mapping: LANES × ROWS invocations, a row of T·Hq each LANES, which go over its columns.
// Accumulation: f32, splits in ascending order.
// Oracle: internal/ref/attention.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/flash_close.glsl"

layout(constant_id = 0) const uint LANES = 32;
layout(constant_id = 1) const uint ROWS = 2;
layout(constant_id = 2) const uint VALUE_WIDTH = 64;
layout(constant_id = 3) const bool QUADS = false;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 parts;
    uvec2 stats;
    uvec2 result;
    uvec2 lse;
    uvec2 sinks;
    uvec2 query_offsets;
    uint result_row;
    uint result_head;
    uint tokens;
    uint heads;
    uint splits;
    uint sequences;
} push;

// pair_at is (m_s, l_s) of a row.
vec2 pair_at(uint split, uint row) {
    uvec2 pair = address_at(push.stats, split * push.tokens * push.heads + row, 8u);
    return vec2(load_f32(pair, 0u), load_f32(pair, 1u));
}

void main() {
    uint row = group_id() * ROWS + gl_LocalInvocationID.y;
    if (row >= push.tokens * push.heads) {
        return;
    }
    uint token = row / push.heads;
    uint head = row - token * push.heads;
    int begin = load_i32(push.query_offsets, 0u);
    int end = load_i32(push.query_offsets, push.sequences);
    if (int(token) < begin || int(token) >= end) {
        return;
    }
    float top = LOWEST;
    for (uint s = 0u; s < push.splits; s++) {
        top = max(top, pair_at(s, row).x);
    }
    float sum = 0.0;
    for (uint s = 0u; s < push.splits; s++) {
        vec2 pair = pair_at(s, row);
        sum += exp_f32(pair.x - top) * pair.y;
    }
    bool absent = address_is_null(push.sinks);
    float sink = load_f32(readable(push.sinks, push.stats), absent ? 0u : head);
    vec2 closed = close_row(top, sum, sink, absent);
    uint lane = gl_LocalInvocationID.x;
    if (lane == 0u && !address_is_null(push.lse)) {
        store_f32(push.lse, row, closed.y);
    }
    uvec2 base = address_at(address_at(push.result, token, push.result_row), head, push.result_head);
    const uint EACH = QUADS ? 4u : 1u;
    for (uint column = lane * EACH; column < VALUE_WIDTH; column += LANES * EACH) {
        vec4 v = vec4(0.0);
        for (uint s = 0u; s < push.splits; s++) {
            uvec2 from = address_at(push.parts, s * push.tokens * push.heads + row, VALUE_WIDTH * 4u);
            float w = exp_f32(pair_at(s, row).x - top);
            v = QUADS ? fma(vec4(w), load_f32x4(from, column), v) : vec4(fma(w, load_f32(from, column), v.x));
        }
        v *= closed.x;
        if (QUADS) {
            store_value4(base, column, v);
        } else {
            store_value(base, column, v.x);
        }
    }
}
