#version 460
// scaled_add: a weighted sum of two arrays: residuals with multipliers, scalings, sums of gradients.
//
//   y[i] = alpha · a[i] + beta · b[i];  alpha · a[i] without BINARY
//
// y may be a or b.
//
// Push constants: device addresses of a, b and y; number of elements, alpha, beta.
// Mapping: THREADS invocations of four consecutive elements each. QUADS: all addresses are aligned to four values.
// Arithmetic: f32.
// Oracle: internal/ref/scaled_add.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const bool QUADS = false;
layout(constant_id = 2) const bool BINARY = true;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 a;
    uvec2 b;
    uvec2 y;
    uint count;
    float alpha;
    float beta;
} push;

void main() {
    uint per_group = 4u * THREADS;
    uint id = group_id();
    if (id >= (push.count + per_group - 1u) / per_group) {
        return;
    }
    uvec2 a = address_at(push.a, id, per_group * VALUE_BYTES);
    uvec2 b = address_at(push.b, id, per_group * VALUE_BYTES);
    uvec2 y = address_at(push.y, id, per_group * VALUE_BYTES);
    uint first = 4u * gl_LocalInvocationID.x;
    uint end = min(push.count - id * per_group, per_group);
    if (QUADS && first + 4u <= end) {
        vec4 sum = push.alpha * load_value4(a, first);
        if (BINARY) {
            sum += push.beta * load_value4(b, first);
        }
        store_value4(y, first, sum);
        return;
    }
    for (uint i = first; i < min(first + 4u, end); i++) {
        float sum = push.alpha * load_value(a, i);
        if (BINARY) {
            sum += push.beta * load_value(b, i);
        }
        store_value(y, i, sum);
    }
}
