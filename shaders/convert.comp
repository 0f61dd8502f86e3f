#version 460
// convert: the same values in another storage type, rounded to nearest even.
//
//   dst[i] = src[i]
//
// src is f32 with INPUT_F32 and dst with OUTPUT_F32; the other is the storage dtype.
//
// Push constants: device addresses of src and dst; number of elements.
// Mapping: THREADS invocations of four consecutive elements each. QUADS: both addresses are aligned to four elements.
// Oracle: vk.ToF16, vk.FromF16, vk.ToBF16, vk.FromBF16
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const bool QUADS = false;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 src;
    uvec2 dst;
    uint count;
} push;

void main() {
    uint per_group = 4u * THREADS;
    uint id = group_id();
    if (id >= (push.count + per_group - 1u) / per_group) {
        return;
    }
    uvec2 src = address_at(push.src, id, per_group * INPUT_BYTES);
    uvec2 dst = address_at(push.dst, id, per_group * OUTPUT_BYTES);
    uint first = 4u * gl_LocalInvocationID.x;
    uint end = min(push.count - id * per_group, per_group);
    if (QUADS && first + 4u <= end) {
        store_output4(dst, first, load_input4(src, first));
        return;
    }
    for (uint i = first; i < min(first + 4u, end); i++) {
        store_output(dst, i, load_input(src, i));
    }
}
