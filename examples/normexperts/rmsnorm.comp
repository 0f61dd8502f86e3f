#version 460
// rmsnorm: the normalization between an expert's two layers, on rows in expert order.
//
//   inv_rms[p] = 1 / √(Σ_c z[p,c]² / width + ε)
//   h[p,c]     = silu(scale[e,c] · z[p,c] · inv_rms[p])        e the expert of row p
//
// It shows how a kernel walks the tiles of a routing: tile i holds rows of expert tiles[i].x only, from tiles[i].y on, at
// most block_m of them, and ends where the expert's rows do, at tiles[i].z. tile_args[3] tells how many tiles there are.
//
// z, h [rows,width] grouped; scale [experts,width]; inv_rms [rows].
// Mapping: one work-group per tile, dispatched indirectly with tile_args; one invocation takes whole rows, so that nothing
// is shared and sums run in one order. Written to be read: a fast kernel would give a row to several invocations.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 32) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Ints { int v[]; };

layout(push_constant, std430) uniform Push {
    Floats z;
    Floats scale;
    Floats h;
    Floats inv_rms;
    Ints tiles;
    Ints tile_args;
    uint block_m;
    uint width;
    float epsilon;
} push;

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
        float sum = 0.0;
        for (uint c = 0u; c < push.width; c++) {
            float z = push.z.v[at + c];
            sum += z * z;
        }
        float inv_rms = inversesqrt(sum / float(push.width) + push.epsilon);
        push.inv_rms.v[row] = inv_rms;
        for (uint c = 0u; c < push.width; c++) {
            float u = push.scale.v[expert * push.width + c] * push.z.v[at + c] * inv_rms;
            push.h.v[at + c] = u / (1.0 + exp(-u));
        }
    }
}
