// The mapping of kernels that give a row to a team of LANES invocations, ROWS rows to a work-group, and add something up
// over each row. Needs LANES and ROWS, the work-group's size in x and y.
#ifndef ROW_TEAM_GLSL
#define ROW_TEAM_GLSL

shared float row_partial[LANES * ROWS];

// row_sum adds one value per lane in a fixed tree; lane 0 of each row gets the sum. All invocations of the work-group
// must call it, once. LANES is a power of two.
float row_sum(float value) {
    uint me = gl_LocalInvocationID.y * LANES + gl_LocalInvocationID.x;
    if (LANES == 1u) {
        return value;
    }
    row_partial[me] = value;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (gl_LocalInvocationID.x < step) {
            row_partial[me] += row_partial[me + step];
        }
    }
    return row_partial[me];
}

#endif
