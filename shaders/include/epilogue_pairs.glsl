// The stores of scatter2scatter and scatter2scatter_gemv: one or two neighbouring columns of a row at once.
#ifndef EPILOGUE_PAIRS_GLSL
#define EPILOGUE_PAIRS_GLSL

#include "epilogue.glsl"

// keep_pair stores outputs n and, where pairs, n + 1 in y and makes v what is there then. end is beyond the last.
void keep_pair(uvec2 row, uint n, uint end, bool pairs, inout vec2 v) {
    store_pair(row, n, end, v, pairs, false);
    v = vec2(as_stored(v.x), as_stored(v.y));
}

// keep_operands does so with what columns c and c + 1 of h are made of.
void keep_operands(uvec2 row, uint c, bool pairs, inout vec2 v, inout vec2 up) {
    if (GATED && INTERLEAVED) {
        vec2 first = vec2(v.x, up.x);
        vec2 second = vec2(v.y, up.y);
        keep_pair(row, 2u * c, push.end_out, true, first);
        keep_pair(row, 2u * c + 2u, pairs ? push.end_out : 0u, true, second);
        v = vec2(first.x, second.x);
        up = vec2(first.y, second.y);
        return;
    }
    keep_pair(row, c, result_end(), pairs, v);
    if (GATED) {
        keep_pair(row, hidden_width() + c, hidden_width() + result_end(), pairs, up);
    }
}

// store_activated stores columns c and, where pairs, c + 1 of a row of h.
void store_activated(uint row, uint c, bool pairs, float gate, vec2 v, vec2 up) {
    if (!address_is_null(push.y)) {
        keep_operands(address_at(push.y, row, push.out_width * OUTPUT_BYTES), c, pairs, v, up);
    }
    vec2 h = vec2(activated(v.x, up.x), pairs ? activated(v.y, up.y) : 0.0) * gate;
    store_pair(address_at(push.h, row, push.row_width * OUTPUT_BYTES), c, result_end(), h, pairs, has(ACCUMULATE));
}

#endif
