#version 460
// target_count: how many targets name a token.
//
//   count[0] = |{t : 0 ≤ targets[t] < V}|
//
// Push constants: device addresses of targets i32 [T] and count u32 [1]; T, V.
// Mapping: one work-group.
// Oracle: internal/ref/cross_entropy.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 targets;
    uvec2 count;
    uint tokens;
    uint vocabulary;
} push;

shared uint counts[THREADS];

void main() {
    if (group_id() > 0u) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint mine = 0u;
    for (uint t = me; t < push.tokens; t += THREADS) {
        mine += uint(load_i32(push.targets, t)) < push.vocabulary ? 1u : 0u;
    }
    counts[me] = mine;
    barrier();
    if (me > 0u) {
        return;
    }
    for (uint i = 1u; i < THREADS; i++) {
        mine += counts[i];
    }
    store_u32(push.count, 0u, mine);
}
