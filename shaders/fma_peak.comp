#version 460
// fma_peak: what a device's f32 units can do when nothing keeps them waiting: chains of fused multiply-adds in registers.
//
//   y[j] = v_rounds[j],  v_0[j] = x[j],  v_{r+1}[j] = v_r[j] · factor + term
//
// for CHAINS values j of each invocation, which are independent of each other. Every work-group computes the same; those whose
// id is a multiple of every store what they got, so that none can be left out.
//
// Push constants: device addresses of x f32 [THREADS, CHAINS] and y f32 [⌈groups / every⌉, THREADS, CHAINS]; rounds, every,
// factor, term.
// Mapping: one work-group of THREADS invocations per set of chains.
// Accumulation: f32, one rounding per step where the device fuses.
// Oracle: internal/ref/fma_peak.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint CHAINS = 16;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 y;
    uint rounds;
    uint every;
    uint groups;
    float factor;
    float term;
} push;

void main() {
    uint id = group_id();
    if (id >= push.groups) {
        return;
    }
    uint first = gl_LocalInvocationID.x * CHAINS;
    float v[CHAINS];
    [[unroll]] for (uint j = 0u; j < CHAINS; j++) {
        v[j] = load_f32(push.x, first + j);
    }
    for (uint r = 0u; r < push.rounds; r++) {
        [[unroll]] for (uint j = 0u; j < CHAINS; j++) {
            v[j] = fma(v[j], push.factor, push.term);
        }
    }
    if (id % push.every == 0u) {
        uvec2 y = address_at(push.y, id / push.every, THREADS * CHAINS * 4u);
        [[unroll]] for (uint j = 0u; j < CHAINS; j++) {
            store_f32(y, first + j, v[j]);
        }
    }
}
