// The mapping of kernels whose invocations each have four neighbouring columns of a row, the last fewer: work-groups of
// COLUMNS × ROWS invocations, neighbours of which share rows. Needs COLUMNS and ROWS.
#ifndef QUAD_GRID_GLSL
#define QUAD_GRID_GLSL

// find_quad sets this invocation's row and first column; it returns false when that is outside the matrix.
bool find_quad(uint rows, uint width, out uint row, out uint column) {
    uint per_group = 4u * COLUMNS;
    uint groups_x = (width + per_group - 1u) / per_group;
    uint id = group_id();
    uint group_row = id / groups_x;
    column = (id - group_row * groups_x) * per_group + 4u * gl_LocalInvocationID.x;
    row = group_row * ROWS + gl_LocalInvocationID.y;
    return row < rows && column < width;
}

#endif
