#version 460
// combine: the gate-weighted sum over a token's k choices.
//
//   out[t] = Σ_j gates[t,j] · y[row of slot t·k + j] + bias,  j ascending, the bias only when BIASED
//
// The row is the slot, or inverse[slot] when GROUPED. A slot whose inverse is −1 has no expert and adds 0. Without gates
// they count as 1. ACCUMULATE adds the result to what out holds.
//
// Push constants: device addresses of y [T·k,D], gates f32 [T,k] (0: none), inverse i32 [T·k], out [T,D], bias
// [D]; T, D, k, row_width: the width of out's rows, of which D columns may be some. out and bias then are those of the first.
// Mapping: COLUMNS × ROWS invocations, each one element of out, or four (QUADS: D and row_width are multiples of 4 and all
// addresses are aligned to four values). The rows of CHOICES choices are on their way at once; more than k are no use.
// Accumulation: f32.
// Oracle: internal/ref/combine.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint COLUMNS = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool QUADS = false;
layout(constant_id = 3) const bool GROUPED = false;
layout(constant_id = 4) const bool ACCUMULATE = false;
layout(constant_id = 5) const bool BIASED = false;
layout(constant_id = 6) const uint CHOICES = 1;
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 y;
    uvec2 gates;
    uvec2 inverse;
    uvec2 result;
    uvec2 bias;
    uint tokens;
    uint width;
    uint k;
    uint row_width;
} push;

#include "include/elementwise.glsl"

// add_choices adds choices j to j + CHOICES − 1 of the k of a token whose first slot is given.
void add_choices(inout vec4 sum, uint first, uint j, uint k, uint column) {
    bool gated = !address_is_null(push.gates);
    uvec2 gates = readable(push.gates, push.inverse); // as long
    int position[CHOICES];
    float gate[CHOICES];
    vec4 y[CHOICES];
    [[unroll]] for (uint i = 0u; i < CHOICES; i++) {
        uint slot = first + min(j + i, k - 1u);
        position[i] = load_i32(push.inverse, slot);
        gate[i] = load_f32(gates, slot);
    }
    // Rows without an expert are read too, so that loads wait for nothing, and not added: they may hold anything.
    [[unroll]] for (uint i = 0u; i < CHOICES; i++) {
        uint slot = first + min(j + i, k - 1u);
        uvec2 row = address_at(push.y, GROUPED ? uint(max(position[i], 0)) : slot, push.width * VALUE_BYTES);
        y[i] = QUADS ? load_value4(row, column) : vec4(load_value(row, column));
    }
    [[unroll]] for (uint i = 0u; i < CHOICES; i++) {
        if (position[i] >= 0 && j + i < k) {
            sum += (gated ? gate[i] : 1.0) * y[i];
        }
    }
}

void main() {
    uint token, column;
    if (!find_element(push.tokens, push.width, token, column)) {
        return;
    }
    vec4 sum = vec4(0.0);
    uint k = push.k;
    for (uint j = 0u; j < k; j += CHOICES) {
        add_choices(sum, token * push.k, j, k, column);
    }
    if (BIASED) {
        if (QUADS) {
            sum += load_value4(push.bias, column);
        } else {
            sum.x += load_value(push.bias, column);
        }
    }
    uvec2 result = address_at(push.result, token, push.row_width * VALUE_BYTES);
    if (QUADS) {
        store_value4(result, column, ACCUMULATE ? load_value4(result, column) + sum : sum);
    } else {
        store_value(result, column, ACCUMULATE ? load_value(result, column) + sum.x : sum.x);
    }
}
