#version 460
// activation: the element-wise function between an expert's two linear maps.
//
//   h[r,c] = f(z[r,c])                  z [rows,H]
//   h[r,c] = f(z[r,c]) · z[r,H + c]     z [rows,2H], GATED: gate columns first, then up columns
//   h[r,c] = f(z[r,2c]) · z[r,2c + 1]   the same with INTERLEAVED columns
//
// MODE picks f: GELU (erf), GELU (tanh), SiLU, ReLU, ReLU², the logistic function, or gpt-oss's clamped SwiGLU, which
// alone uses alpha and limit.
//
// Push constants: device addresses of z and h; rows, H, alpha, limit.
// Mapping: COLUMNS × ROWS invocations, each one element of h, or four (QUADS: H is a multiple of 4 and both addresses
// are aligned to four values).
// Arithmetic: f32.
// Oracle: internal/ref/activation.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/activations.glsl"

layout(constant_id = 0) const uint COLUMNS = 64;
layout(constant_id = 1) const uint ROWS = 1;
layout(constant_id = 2) const bool QUADS = false;
layout(constant_id = 3) const uint MODE = 2;
layout(constant_id = 4) const bool GATED = false;
layout(constant_id = 5) const bool INTERLEAVED = false; // only where GATED
layout(local_size_x_id = 0, local_size_y_id = 1) in;

layout(push_constant, std430) uniform Push {
    uvec2 z;
    uvec2 h;
    uint rows;
    uint width;
    float alpha;
    float limit;
} push;

#include "include/elementwise.glsl"
#include "include/gated.glsl"

void main() {
    uint row, column;
    if (!find_element(push.rows, push.width, row, column)) {
        return;
    }
    uvec2 z = address_at(push.z, row, push.width * (GATED ? 2u : 1u) * VALUE_BYTES);
    uvec2 h = address_at(push.h, row, push.width * VALUE_BYTES);
    vec4 v, u;
    load_operands(z, push.width, column, v, u);
    const uint count = QUADS ? 4u : 1u;
    [[unroll]] for (uint c = 0u; c < count; c++) {
        v[c] = GATED ? activate_gated(MODE, v[c], u[c], push.alpha, push.limit) : activate(MODE, v[c]);
    }
    if (QUADS) {
        store_value4(h, column, v);
    } else {
        store_value(h, column, v.x);
    }
}
