// Loads of four neighbouring elements of a row, the ragged end of which reads as 0, and stores of two.
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

// store_pair stores v.x as output n and, where pairs, v.y beside it; what is at or beyond end is dropped. accumulate adds
// to what is there.
void store_pair(uvec2 row, uint n, uint end, vec2 v, bool pairs, bool accumulate) {
    if (n >= end) {
        return;
    }
    uint count = pairs ? min(end - n, 2u) : 1u;
    if (accumulate) {
        v += vec2(load_output(row, n), count == 2u ? load_output(row, n + 1u) : 0.0);
    }
    store_output_some2(row, n, v, count);
}

#endif
