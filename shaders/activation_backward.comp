#version 460
// activation_backward: from the gradient of an activation's output, before the gates are applied, those of its input and
// of the gates, and the output once more:
//
//   dz[p,c]   = gates[s] · dh[p,c] · f'(z[p,c])        likewise for gate and up columns, GATED
//   dgates[s] = Σ_c dh[p,c] · f(z[p,c])
//   h[p,c]    = f(z[p,c])                              times gates[s], GATE_H
//
// p = inverse[s], or s when DENSE. With y = gate·(W·h + b) and dh = Wᵀ·dy, dgates is dy·W·h: the gate's gradient without
// the layer's output. dz may be z, and h may be dh. Rows of slots without an expert are left alone, their gates' gradient
// is 0. z and its columns are as in activation.comp.
//
// Push constants: device addresses of z, dh, dz (0: not wanted), h (0: not wanted), gates f32 [T·k] (0: 1), dgates f32
// [T·k] (0: not wanted), inverse i32 [T·k]; slots, H, flags: 1 adds to dgates, 2 GATE_H, 4 DENSE; alpha, limit; address of left
// [T·k,left_width], a multiple of 4, which the first left_width columns of h go to instead of h.
// Mapping: a team of LANES invocations per slot, each one column of h at a time, or four (QUADS: H is a multiple of 4 and
// all addresses are aligned to four values).
// Accumulation: f32, per lane and then by a fixed tree.
// Oracle: internal/ref/activation_backward.go
#extension GL_GOOGLE_include_directive : require
#ifndef STORAGE_F32
#define EXP exp // see include/float.glsl
#endif
#include "include/head.glsl"
#include "include/activations_backward.glsl"

layout(constant_id = 0) const uint LANES = 16;
layout(constant_id = 1) const uint ROWS = 4;
layout(constant_id = 2) const bool QUADS = false;
layout(constant_id = 3) const uint MODE = 2;
layout(constant_id = 4) const bool GATED = false;
layout(constant_id = 5) const bool INTERLEAVED = false; // only where GATED
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 z;
    uvec2 dh;
    uvec2 dz;
    uvec2 h;
    uvec2 gates;
    uvec2 dgates;
    uvec2 inverse;
    uint slots;
    uint width;
    uint flags;
    float alpha;
    float limit;
    uvec2 left;
    uint left_width;
} push;

#include "include/row_team.glsl"
#include "include/gated.glsl"

const uint ACCUMULATE_GATES = 1u;
const uint GATE_H = 2u;
const uint DENSE = 4u;

bool has(uint flag) { return (push.flags & flag) != 0u; }

// The row's operands.
struct Row {
    uvec2 z;
    uvec2 dh;
    uvec2 dz;
    uvec2 h;
    uvec2 left;
    float gate;
};

Row find_row(uint slot, uint position) {
    uint bytes = push.width * VALUE_BYTES;
    uint wide = GATED ? 2u * bytes : bytes;
    float gate = address_is_null(push.gates) ? 1.0 : load_f32(push.gates, slot);
    return Row(address_at(push.z, position, wide), address_at(push.dh, position, bytes),
        address_at(push.dz, position, wide), address_at(push.h, position, bytes),
        address_at(push.left, position, push.left_width * VALUE_BYTES), gate);
}

// one_step handles four columns or one and returns their part of the gate's gradient.
float one_step(Row row, uint column) {
    vec4 v, u;
    load_operands(row.z, push.width, column, v, u);
    vec4 dh = QUADS ? load_value4(row.dh, column) : vec4(load_value(row.dh, column));
    vec4 h = vec4(0.0);
    const uint count = QUADS ? 4u : 1u;
    float part = 0.0;
    [[unroll]] for (uint c = 0u; c < count; c++) {
        vec3 both;
        if (GATED) {
            both = activate_gated_both(MODE, v[c], u[c], push.alpha, push.limit);
        } else {
            both = vec3(activate_both(MODE, v[c]), 0.0);
        }
        h[c] = both.x;
        part += dh[c] * both.x;
        float scaled = row.gate * dh[c];
        v[c] = scaled * both.y;
        u[c] = scaled * both.z;
    }
    if (!address_is_null(push.dz)) {
        store_operands(row.dz, push.width, column, v, u);
    }
    if (!address_is_null(push.h)) {
        h *= has(GATE_H) ? row.gate : 1.0;
        uvec2 to = column < push.left_width ? row.left : row.h;
        if (QUADS) {
            store_value4(to, column, h);
        } else {
            store_value(to, column, h.x);
        }
    }
    return part;
}

void main() {
    uint slot = group_id() * ROWS + gl_LocalInvocationID.y;
    if (group_id() * ROWS >= push.slots) {
        return;
    }
    float sum = 0.0;
    if (slot < push.slots) {
        int position = has(DENSE) ? int(slot) : load_i32(push.inverse, slot);
        if (position >= 0) {
            Row row = find_row(slot, uint(position));
            const uint wide = QUADS ? 4u : 1u;
            for (uint column = gl_LocalInvocationID.x * wide; column < push.width; column += LANES * wide) {
                sum += one_step(row, column);
            }
        }
    }
    sum = row_sum(sum);
    if (slot < push.slots && gl_LocalInvocationID.x == 0u && !address_is_null(push.dgates)) {
        store_f32(push.dgates, slot, has(ACCUMULATE_GATES) ? load_f32(push.dgates, slot) + sum : sum);
    }
}
