#version 460
// global_norm: the second stage of a norm over many tensors, and the factor that clips gradients by it.
//
//   norm[0] = multiplier · √(Σ partials)
//   norm[1] = multiplier · min(1, limit / (norm[0] + 1e-6));  multiplier where limit is 0
//
// A norm that is not finite makes both NaN, by which adamw knows to leave everything as it is.
//
// Push constants: device addresses of partials f32 [n] and norm f32 [2]; n, multiplier, limit.
// Mapping: one work-group.
// Accumulation: f32, in a fixed order.
// Oracle: internal/ref/global_norm.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

#define LANES THREADS
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 partials;
    uvec2 norm;
    uint count;
    float multiplier;
    float limit;
} push;

void main() {
    if (group_id() > 0u) {
        return;
    }
    float sum = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < push.count; i += THREADS) {
        sum += load_f32(push.partials, i);
    }
    sum = row_sum(sum);
    if (gl_LocalInvocationID.x > 0u) {
        return;
    }
    bool finite = (floatBitsToUint(sum) & 0x7fffffffu) < 0x7f800000u;
    float norm = push.multiplier * sqrt(sum);
    float factor = push.limit > 0.0 ? min(1.0, push.limit / (norm + 1e-6)) : 1.0;
    store_f32(push.norm, 0u, finite ? norm : NAN);
    store_f32(push.norm, 1u, finite ? push.multiplier * factor : NAN);
}
