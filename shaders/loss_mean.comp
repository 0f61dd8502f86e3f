#version 460
// loss_mean: the mean of the losses of those tokens that have a target.
//
//   mean[0] = Σ_t losses[t] / count[0];  0 without targets
//
// Push constants: device addresses of losses f32 [T], count u32 [1] and mean f32 [1]; T.
// Mapping: one work-group.
// Accumulation: f32, in a fixed order.
// Oracle: internal/ref/cross_entropy.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

#define LANES THREADS
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 losses;
    uvec2 count;
    uvec2 mean;
    uint tokens;
} push;

void main() {
    if (group_id() > 0u) {
        return;
    }
    float sum = 0.0;
    for (uint t = gl_LocalInvocationID.x; t < push.tokens; t += THREADS) {
        sum += load_f32(push.losses, t);
    }
    sum = row_sum(sum);
    if (gl_LocalInvocationID.x == 0u) {
        store_f32(push.mean, 0u, sum / max(1.0, float(load_u32(push.count, 0u))));
    }
}
