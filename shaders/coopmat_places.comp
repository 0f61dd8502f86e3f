#version 460
// coopmat_places: which element of a MM × MN accumulator an invocation of a subgroup holds at which index:
//
//   places[lane][e] = row·MN + column,   e < ELEMENTS = MM·MN / SUBGROUP
//
// VK_KHR_cooperative_matrix leaves that to the device. Places that it does not say remain −1.
//
// Push constants: device address of places i32 [SUBGROUP,ELEMENTS].
// Mapping: one work-group of one subgroup.
// Oracle: attention/matrix_places_test.go
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#include "include/head.glsl"
#pragma use_vulkan_memory_model

layout(constant_id = 0) const uint SUBGROUP = 32;
layout(constant_id = 1) const uint MM = 16;
layout(constant_id = 2) const uint MN = 16;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push { uvec2 places; } push;

const uint ELEMENTS = MM * MN / SUBGROUP;

shared float numbers[MM * MN];

void main() {
    for (uint i = gl_LocalInvocationID.x; i < MM * MN; i += SUBGROUP) {
        numbers[i] = float(i);
    }
    barrier();
    coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> matrix;
    coopMatLoad(matrix, numbers, 0, MN, gl_CooperativeMatrixLayoutRowMajor);
    for (uint e = 0u; e < ELEMENTS; e++) {
        int place = e < uint(matrix.length()) ? int(matrix[e]) : -1;
        store_i32(push.places, gl_SubgroupInvocationID * ELEMENTS + e, place);
    }
}
