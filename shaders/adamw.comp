#version 460
// adamw: one step of AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) on one tensor.
//
//   g' = factor · g
//   m  = β1·m + (1 − β1)·g'
//   v  = β2·v + (1 − β2)·g'²
//   p  = p·(1 − decay·rate·λ) − rate · (m·c1) / (√(v·c2) + ε),  c1 = 1/(1 − β1^t), c2 = 1/(1 − β2^t)
//
// 16-bit parameters have an f32 master copy, which is what is updated; p is rounded from it. The factor is norm[1] of
// global_norm; where that is NaN nothing changes.
//
// Push constants: device addresses of p [n] of the storage dtype, master f32 [n] (16-bit storage only), m and v f32 [n], g
// [n] (f32 with INPUT_F32), hyper f32 [9] = {rate, β1, 1 − β1, β2, 1 − β2, ε, λ, c1, c2}, norm f32 [2]; n, decay (0 or 1).
// Mapping: an invocation per two elements.
// Arithmetic: f32.
// Oracle: internal/ref/adamw.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 p;
    uvec2 master;
    uvec2 m;
    uvec2 v;
    uvec2 g;
    uvec2 hyper;
    uvec2 norm;
    uint count;
    float decay;
} push;

void main() {
    const uint per_group = 2u * THREADS;
    uint id = group_id();
    float factor = load_f32(push.norm, 1u);
    if (id > (push.count - 1u) / per_group || is_nan(factor)) {
        return;
    }
    float rate = load_f32(push.hyper, 0u);
    float keep = 1.0 - push.decay * rate * load_f32(push.hyper, 6u);
    uvec2 p = address_at(push.p, id, per_group * VALUE_BYTES);
#ifdef STORAGE_F32
    uvec2 master = p;
#else
    uvec2 master = address_at(push.master, id, per_group * 4u);
#endif
    uvec2 m = address_at(push.m, id, per_group * 4u);
    uvec2 v = address_at(push.v, id, per_group * 4u);
    uvec2 g = address_at(push.g, id, per_group * INPUT_BYTES);
    uint first = 2u * gl_LocalInvocationID.x;
    uint most = min(push.count - id * per_group, per_group);
    uint here = first < most ? min(2u, most - first) : 0u;
    vec2 results = vec2(0.0);
    for (uint j = 0u; j < here; j++) {
        uint i = first + j;
        float gradient = factor * load_input(g, i);
        float mean = load_f32(push.hyper, 1u) * load_f32(m, i) + load_f32(push.hyper, 2u) * gradient;
        float square = load_f32(push.hyper, 3u) * load_f32(v, i) + load_f32(push.hyper, 4u) * gradient * gradient;
        store_f32(m, i, mean);
        store_f32(v, i, square);
        float root = sqrt(square * load_f32(push.hyper, 8u)) + load_f32(push.hyper, 5u);
        results[j] = keep * load_f32(master, i) - rate * (mean * load_f32(push.hyper, 7u)) / root;
        store_f32(master, i, results[j]);
    }
#ifndef STORAGE_F32
    store_some2(p, first, results, here);
#endif
}
