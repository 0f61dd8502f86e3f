#version 460
// square_sum: the first stage of a norm over many tensors: sums of squares of blocks of one of them.
//
//   partials[g] = Σ x[i]² over the g-th PER_GROUP elements
//
// Push constants: device addresses of x [n] and partials f32 [⌈n / PER_GROUP⌉]; n.
// Mapping: a work-group per block; neighbouring invocations take neighbouring elements.
// Accumulation: f32, in a fixed order.
// Oracle: internal/ref/global_norm.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint PER_GROUP = 4096;
layout(local_size_x_id = 0) in;

#define LANES THREADS
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 partials;
    uint count;
} push;

void main() {
    uint id = group_id();
    if (id > (push.count - 1u) / PER_GROUP) {
        return;
    }
    uvec2 x = address_at(push.x, id, PER_GROUP * VALUE_BYTES);
    uint end = min(push.count - id * PER_GROUP, PER_GROUP);
    float sum = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < end; i += THREADS) {
        float v = load_value(x, i);
        sum += v * v;
    }
    sum = row_sum(sum);
    if (gl_LocalInvocationID.x == 0u) {
        store_f32(push.partials, id, sum);
    }
}
