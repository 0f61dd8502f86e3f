// Two sums over each row for kernels that give a row to a team of LANES invocations, ROWS rows to a work-group. Needs LANES, a
// power of two, and ROWS, the work-group's size in x and y.
#ifndef ROW_TOTALS_GLSL
#define ROW_TOTALS_GLSL

shared vec2 row_partials[LANES * ROWS];

// row_totals adds two values per lane in a fixed tree and gives all lanes of the row both sums. All invocations of the
// work-group must call it, once.
vec2 row_totals(vec2 value) {
    uint first = gl_LocalInvocationID.y * LANES;
    uint me = first + gl_LocalInvocationID.x;
    row_partials[me] = value;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (gl_LocalInvocationID.x < step) {
            row_partials[me] += row_partials[me + step];
        }
    }
    barrier();
    return row_partials[first];
}

#endif
