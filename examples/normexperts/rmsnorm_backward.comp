#version 460
// rmsnorm_backward: the gradient of rmsnorm with respect to its input.
//
//   n[p,c]  = z[p,c] · inv_rms[p]                              the normalized row
//   du[p,c] = dh[p,c] · silu'(scale[e,c] · n[p,c])
//   dz[p,c] = inv_rms[p] · (scale[e,c] · du[p,c] − n[p,c] · Σ_i scale[e,i] · du[p,i] · n[p,i] / width)
//
// dz may be dh: each invocation reads an element before it writes it, and nobody else reads the row.
//
// Shapes and mapping as in rmsnorm.comp.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 32) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Ints { int v[]; };

layout(push_constant, std430) uniform Push {
    Floats z;
    Floats scale;
    Floats inv_rms;
    Floats dh;
    Floats dz;
    Ints tiles;
    Ints tile_args;
    uint block_m;
    uint width;
} push;

// silu'(u) = σ(u)·(1 + u·(1 − σ(u)))
float silu_slope(float u) {
    float s = 1.0 / (1.0 + exp(-u));
    return s * (1.0 + u * (1.0 - s));
}

void main() {
    uint group = gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
    uint tiles = uint(push.tile_args.v[3]);
    uint tile = min(group, tiles - 1u); // lavapipe 26.2 reads at a work-group's common address even behind a return
    uint expert = uint(push.tiles.v[3u * tile]);
    uint first = uint(push.tiles.v[3u * tile + 1u]);
    uint end = min(first + push.block_m, uint(push.tiles.v[3u * tile + 2u]));
    if (group >= tiles) {
        return;
    }
    for (uint row = first + gl_LocalInvocationID.x; row < end; row += 32u) {
        uint at = row * push.width;
        float inv_rms = push.inv_rms.v[row];
        float sum = 0.0;
        for (uint c = 0u; c < push.width; c++) {
            float scale = push.scale.v[expert * push.width + c];
            float n = push.z.v[at + c] * inv_rms;
            sum += scale * push.dh.v[at + c] * silu_slope(scale * n) * n;
        }
        for (uint c = 0u; c < push.width; c++) {
            float scale = push.scale.v[expert * push.width + c];
            float n = push.z.v[at + c] * inv_rms;
            float du = push.dh.v[at + c] * silu_slope(scale * n);
            push.dz.v[at + c] = inv_rms * (scale * du - n * sum / float(push.width));
        }
    }
}
