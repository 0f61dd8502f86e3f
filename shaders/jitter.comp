#version 460
// jitter: multiplies each element by a random number that is uniform in [1 − eps, 1 + eps), and depends on the element's
// index, a seed, a step and a stream only.
//
//   y_i (+)= x_i · (1 + scale · b_i),  scale = eps / 2^22,  b_i in [−2^22, 2^22)
//
//   b_i is the top 23 bits of word i mod 4 of Philox-4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//   SC 2011) at the counter (⌊i/4⌋, 0, step, stream) with the key seed. ACCUMULATE adds to y, otherwise it is overwritten.
//
// Push constants: device addresses of x [n] and y [n] of the storage dtype, step u32 [1] or 0 for step 0; seed (low word,
// high word); stream; quads = ⌈n/4⌉, tail = n − 4·(quads − 1); scale.
// Mapping: an invocation per four elements.
// Oracle: internal/ref/jitter.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/philox.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const bool ACCUMULATE = false;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 x;
    uvec2 y;
    uvec2 step;
    uvec2 seed;
    uint stream;
    uint quads;
    uint tail;
    float scale;
} push;

void main() {
    uint quad = group_id() * THREADS + gl_LocalInvocationID.x;
    if (group_id() > (push.quads - 1u) / THREADS || quad >= push.quads) {
        return;
    }
    uint step = load_u32(readable(push.step, push.x), 0u);
    step = address_is_null(push.step) ? 0u : step;
    uvec4 words = philox(uvec4(quad, 0u, step, push.stream), push.seed);
    uvec2 x = address_at(push.x, quad, 4u * VALUE_BYTES);
    uvec2 y = address_at(push.y, quad, 4u * VALUE_BYTES);
    uint n = quad == push.quads - 1u ? push.tail : 4u;
    vec4 values = vec4(0.0);
    for (uint i = 0u; i < n; i++) {
        // precise forbids a fused multiply-add, which would round once where the oracle rounds twice.
        precise float deviation = push.scale * float(int(words[i] >> 9u) - 0x400000);
        precise float factor = 1.0 + deviation;
        precise float value = load_value(x, i) * factor;
        if (ACCUMULATE) {
            value += load_value(y, i);
        }
        values[i] = value;
    }
    if (n == 4u) {
        store_value2(y, 0u, values.xy);
        store_value2(y, 2u, values.zw);
        return;
    }
    for (uint i = 0u; i < n; i++) {
        store_value(y, i, values[i]);
    }
}
