#version 460
// activation: the element-wise function between an expert's two linear maps.
//
//   h[r,c] = f(z[r,c])                  z [rows,H]
//   h[r,c] = f(z[r,c]) · z[r,H + c]     z [rows,2H], GATED: gate columns first, then up columns
//   h[r,c] = f(z[r,2c]) · z[r,2c + 1]   the same with INTERLEAVED columns
//
// MODE picks f: GELU (erf), GELU (tanh), SiLU, ReLU, ReLU².
//
// Push constants: device addresses of z and h; rows, H.
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
} push;

#include "include/elementwise.glsl"

void main() {
    uint row, column;
    if (!find_element(push.rows, push.width, row, column)) {
        return;
    }
    uvec2 z = address_at(push.z, row, push.width * (GATED ? 2u : 1u) * VALUE_BYTES);
    uvec2 up = address_add(z, push.width * VALUE_BYTES);
    uvec2 h = address_at(push.h, row, push.width * VALUE_BYTES);
    if (QUADS) {
        vec4 v, u = vec4(1.0);
        if (INTERLEAVED) {
            vec4 left = load_value4(z, 2u * column);
            vec4 right = load_value4(z, 2u * column + 4u);
            v = vec4(left.xz, right.xz);
            u = vec4(left.yw, right.yw);
        } else {
            v = load_value4(z, column);
            if (GATED) {
                u = load_value4(up, column);
            }
        }
        v = vec4(activate(MODE, v.x), activate(MODE, v.y), activate(MODE, v.z), activate(MODE, v.w));
        store_value4(h, column, GATED ? v * u : v);
    } else {
        float v = activate(MODE, load_value(z, INTERLEAVED ? 2u * column : column));
        if (GATED) {
            v *= INTERLEAVED ? load_value(z, 2u * column + 1u) : load_value(up, column);
        }
        store_value(h, column, v);
    }
}
