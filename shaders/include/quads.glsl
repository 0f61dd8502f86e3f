// Loads of four neighbouring elements of a row, the ragged end of which reads as 0.
#ifndef QUADS_GLSL
#define QUADS_GLSL

// load_quad reads four values from index on; those at or beyond end are 0. quads says that rows are multiples of four
// values and aligned to four.
vec4 load_quad(uvec2 base, uint index, uint end, bool quads) {
    if (quads) {
        return index < end ? load_value4(base, index) : vec4(0.0);
    }
    vec4 v = vec4(0.0);
    [[unroll]] for (uint c = 0u; c < 4u; c++) {
        if (index + c < end) {
            v[c] = load_value(base, index + c);
        }
    }
    return v;
}

#if defined(INPUT_F32)
vec4 load_input_quad(uvec2 base, uint index, uint end, bool quads) {
    if (quads) {
        return index < end ? load_input4(base, index) : vec4(0.0);
    }
    vec4 v = vec4(0.0);
    [[unroll]] for (uint c = 0u; c < 4u; c++) {
        if (index + c < end) {
            v[c] = load_input(base, index + c);
        }
    }
    return v;
}
#else
#define load_input_quad load_quad
#endif

#endif
