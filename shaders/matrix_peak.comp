#version 460
// matrix_peak: what a device's matrix units can do when nothing keeps them waiting: products of cooperative matrices
// (VK_KHR_cooperative_matrix) that stay in registers.
//
//   c = rounds · a · bᵀ
//
// for a [MI·MM, MK] and b [NI·MN, MK], added up in f32 by every subgroup. Work-groups whose id is a multiple of every store what
// their subgroups got, so that none can be left out.
//
// Push constants: device addresses of a, b (16-byte aligned) and c f32 [⌈groups / every⌉, THREADS / SUBGROUP, MI·MM, NI·MN];
// rounds, every, groups.
// Mapping: one work-group of THREADS / SUBGROUP subgroups; each owns MI × NI matrices of MM × MN results.
// Requires: MK a multiple of 8.
// Accumulation: f32, in the order of the device's matrix unit, the same for every run.
// Oracle: internal/ref/matrix_peak.go
#extension GL_GOOGLE_include_directive : require
#include "include/coopmat.glsl"

layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint SUBGROUP = 32;
layout(constant_id = 2) const uint MI = 4;
layout(constant_id = 3) const uint NI = 4;
layout(constant_id = 4) const uint MM = 16;
layout(constant_id = 5) const uint MN = 16;
layout(constant_id = 6) const uint MK = 16;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 a;
    uvec2 b;
    uvec2 c;
    uint rounds;
    uint every;
    uint groups;
} push;

const uint KQ = MK / 8u; // chunks of a row
const uint A_CHUNKS = MI * MM * KQ;
const uint B_CHUNKS = NI * MN * KQ;
const uint STRIP = MM * NI * MN / 4u; // chunks of a subgroup's matrices side by side
const uint STRIPS = THREADS / SUBGROUP * STRIP;
const uint CHUNKS = A_CHUNKS + B_CHUNKS > STRIPS ? A_CHUNKS + B_CHUNKS : STRIPS;

// One memory under three types, as in scatter2scatter_coopmat.comp.
layout(std430) shared AsChunks { uvec4 chunks[CHUNKS]; };
layout(std430) shared AsElements { ELEMENT elements[8u * CHUNKS]; };
layout(std430) shared AsFloats { float floats[4u * CHUNKS]; };

coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> sums[MI * NI];

// store_strip writes row i of the subgroup's matrices, which lies in its strip, to c.
void store_strip(uvec2 c, uint strip, uint i, bool stored) {
    const uint width = NI * MN;
    for (uint at = gl_SubgroupInvocationID; stored && at < MM * width; at += SUBGROUP) {
        store_f32(c, i * MM * width + at, floats[4u * strip + at]);
    }
}

void main() {
    uint id = group_id();
    if (id >= push.groups) {
        return;
    }
    for (uint at = gl_LocalInvocationID.x; at < A_CHUNKS + B_CHUNKS; at += THREADS) {
        chunks[at] = at < A_CHUNKS ? Chunks(push.a).at[at] : Chunks(push.b).at[at - A_CHUNKS];
    }
    barrier();
    coopmat<ELEMENT, gl_ScopeSubgroup, MM, MK, gl_MatrixUseA> a[MI];
    coopmat<ELEMENT, gl_ScopeSubgroup, MK, MN, gl_MatrixUseB> b[NI];
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        coopMatLoad(a[i], elements, i * MM * MK, MK, gl_CooperativeMatrixLayoutRowMajor);
    }
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        coopMatLoad(b[j], elements, 8u * A_CHUNKS + j * MN * MK, MK, gl_CooperativeMatrixLayoutColumnMajor);
    }
    [[unroll]] for (uint i = 0u; i < MI * NI; i++) {
        sums[i] = coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator>(0.0);
    }
    for (uint r = 0u; r < push.rounds; r++) {
        [[unroll]] for (uint i = 0u; i < MI; i++) {
            [[unroll]] for (uint j = 0u; j < NI; j++) {
                sums[i * NI + j] = coopMatMulAdd(a[i], b[j], sums[i * NI + j]);
            }
        }
    }
    bool stored = id % push.every == 0u;
    uint strip = gl_SubgroupID * STRIP;
    uint tile = id / push.every * (THREADS / SUBGROUP) + gl_SubgroupID;
    uvec2 c = address_at(push.c, tile, MI * MM * NI * MN * 4u);
    // A loop inside the one over the matrices would keep it from being unrolled, and them in memory: NVIDIA 580.159 then
    // reaches a sixteenth of the rate.
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        barrier();
        [[unroll]] for (uint j = 0u; j < NI; j++) {
            coopMatStore(sums[i * NI + j], floats, 4u * strip + j * MN, NI * MN, gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();
        store_strip(c, strip, i, stored);
    }
}
