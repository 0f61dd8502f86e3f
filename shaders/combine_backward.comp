#version 460
// combine_backward: the gradients of a gate-weighted result (arXiv 2403.08245, algorithm 2): in one pass over the slots
//
//   dgates[s]    = Σ_c a[row_a][c] · b[row_b][c]
//   c[row_c][c]  = gates[s] · a[row_a][c]
//
// For out[t] = Σ_j gates·y, a is dOut, b is y and c is dY. For y = gates·(W·x + b), a is Wᵀ·dy and b is x, and once
// more a is dy and b the biases. A row is found from the slot as A_ROWS, B_ROWS and C_ROWS say; EXPERT is for B_ROWS only.
// c may be a or b where the rows are the same. A slot without an expert gets a gradient of 0, and a zero row where C_ROWS is SLOT.
//
// Push constants: device addresses of a, b, c (0: no scaled rows), gates f32 [T·k] (0: 1), dgates f32 [T·k] (0: not
// wanted), ids i32 [T·k], inverse i32 [T·k]; slots, width, k, flags: 1 adds to dgates, 2 adds to
// c, 4: b is a table of one address per expert (include/bank.glsl).
// Mapping: a team of LANES invocations per slot. QUADS: width is a multiple of 4 and all addresses are aligned to four
// values.
// Accumulation: f32, per lane and then by a fixed tree.
// Oracle: internal/ref/combine_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/bank.glsl"

layout(constant_id = 0) const uint LANES = 16;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const bool QUADS = false;
layout(constant_id = 3) const uint A_ROWS = 0;
layout(constant_id = 4) const uint B_ROWS = 1;
layout(constant_id = 5) const uint C_ROWS = 1;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 a;
    uvec2 b;
    uvec2 c;
    uvec2 gates;
    uvec2 dgates;
    uvec2 ids;
    uvec2 inverse;
    uint slots;
    uint width;
    uint k;
    uint flags;
} push;

#include "include/row_team.glsl"

// What A_ROWS, B_ROWS and C_ROWS name.
const uint TOKEN = 0u;
const uint SLOT = 1u;
const uint POSITION = 2u;
const uint EXPERT = 3u;

const uint ACCUMULATE_GATES = 1u;
const uint ACCUMULATE_C = 2u;
const uint B_TABLE = 4u;

bool has(uint flag) { return (push.flags & flag) != 0u; }

uvec2 row_of(uvec2 base, uint kind, uint slot, int position) {
    uint row = slot;
    if (kind == TOKEN) {
        row = slot / push.k;
    } else if (kind == POSITION) {
        row = uint(position);
    }
    return address_at(base, row, push.width * VALUE_BYTES);
}

uvec2 bias_row(uint slot) {
    return expert_base(push.b, has(B_TABLE), uint(load_i32(push.ids, slot)), 1u, push.width * VALUE_BYTES);
}

// one_step handles four columns or one and returns their part of the dot product.
float one_step(uvec2 a, uvec2 b, uvec2 c, float gate, uint column) {
    bool dot_wanted = !address_is_null(push.dgates);
    bool scaled = !address_is_null(push.c);
    float part = 0.0;
    if (QUADS) {
        vec4 v = load_value4(a, column);
        if (dot_wanted) {
            part = dot(v, load_value4(b, column));
        }
        if (scaled) {
            v *= gate;
            store_value4(c, column, has(ACCUMULATE_C) ? load_value4(c, column) + v : v);
        }
        return part;
    }
    float v = load_value(a, column);
    if (dot_wanted) {
        part = v * load_value(b, column);
    }
    if (scaled) {
        v *= gate;
        store_value(c, column, has(ACCUMULATE_C) ? load_value(c, column) + v : v);
    }
    return part;
}

void clear_row(uvec2 c) {
    if (address_is_null(push.c) || C_ROWS != SLOT || has(ACCUMULATE_C)) {
        return;
    }
    for (uint column = gl_LocalInvocationID.x; column < push.width; column += LANES) {
        store_value(c, column, 0.0);
    }
}

void main() {
    uint slot = group_id() * ROWS + gl_LocalInvocationID.y;
    if (group_id() * ROWS >= push.slots) {
        return;
    }
    float sum = 0.0;
    if (slot < push.slots) {
        int position = load_i32(push.inverse, slot);
        uvec2 c = row_of(push.c, C_ROWS, slot, position);
        if (position < 0) {
            clear_row(c);
        } else {
            uvec2 a = row_of(push.a, A_ROWS, slot, position);
            uvec2 b = B_ROWS == EXPERT ? bias_row(slot) : row_of(push.b, B_ROWS, slot, position);
            float gate = address_is_null(push.gates) ? 1.0 : load_f32(push.gates, slot);
            const uint wide = QUADS ? 4u : 1u;
            for (uint column = gl_LocalInvocationID.x * wide; column < push.width; column += LANES * wide) {
                sum += one_step(a, b, c, gate, column);
            }
        }
    }
    sum = row_sum(sum);
    if (slot < push.slots && gl_LocalInvocationID.x == 0u && !address_is_null(push.dgates)) {
        store_f32(push.dgates, slot, has(ACCUMULATE_GATES) ? load_f32(push.dgates, slot) + sum : sum);
    }
}
