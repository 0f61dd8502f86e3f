#version 460
// rmsnorm_scale: the gradient of rmsnorm with respect to its scale.
//
//   dscale[e,c] = Σ_p dh[p,c] · silu'(scale[e,c] · n[p,c]) · n[p,c],  n[p,c] = z[p,c] · inv_rms[p]
//
// over expert e's rows p, ascending. It shows how a kernel walks the rows of one expert: offsets[e] to offsets[e + 1]. An
// expert without rows gets zeros.
//
// Shapes as in rmsnorm.comp; dscale [experts,width].
// Mapping: one invocation per element of dscale.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 64) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Ints { int v[]; };

layout(push_constant, std430) uniform Push {
    Floats z;
    Floats scale;
    Floats inv_rms;
    Floats dh;
    Floats dscale;
    Ints offsets;
    uint experts;
    uint width;
} push;

// silu'(u) = σ(u)·(1 + u·(1 − σ(u)))
float silu_slope(float u) {
    float s = 1.0 / (1.0 + exp(-u));
    return s * (1.0 + u * (1.0 - s));
}

void main() {
    uint group = gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
    uint i = group * 64u + gl_LocalInvocationID.x;
    if (i >= push.experts * push.width) {
        return;
    }
    uint expert = i / push.width;
    uint column = i % push.width;
    uint end = uint(push.offsets.v[expert + 1u]);
    float scale = push.scale.v[i];
    float sum = 0.0;
    // Two loops, since lavapipe ends a loop without a word after 65,535 rounds and an expert may have more rows.
    for (uint block = uint(push.offsets.v[expert]); block < end; block += 4096u) {
        for (uint row = block; row < min(block + 4096u, end); row++) {
            float n = push.z.v[row * push.width + column] * push.inv_rms.v[row];
            sum += push.dh.v[row * push.width + column] * silu_slope(scale * n) * n;
        }
    }
    push.dscale.v[i] = sum;
}
