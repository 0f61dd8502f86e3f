// The mapping of kernels that go over a [rows, width] matrix: work-groups of COLUMNS × ROWS invocations, each of one vec4
// (QUADS) or one element; work-groups that share rows are neighbours. Needs COLUMNS, ROWS and QUADS.
#ifndef ELEMENTWISE_GLSL
#define ELEMENTWISE_GLSL

const uint PER_INVOCATION = QUADS ? 4u : 1u;

// find_element sets this invocation's row and first column; it returns false when that is outside the matrix.
bool find_element(uint rows, uint width, out uint row, out uint column) {
    uint per_group = COLUMNS * PER_INVOCATION;
    uint groups_x = (width + per_group - 1u) / per_group;
    uint id = group_id();
    uint group_row = id / groups_x;
    column = (id - group_row * groups_x) * per_group + gl_LocalInvocationID.x * PER_INVOCATION;
    row = group_row * ROWS + gl_LocalInvocationID.y;
    return row < rows && column < width;
}

#endif
