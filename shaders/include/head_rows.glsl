// Four neighbouring values of a head, from a multiple of four on. Without QUADS the head may begin anywhere and have any width;
// what is at or beyond its end is not written. Needs QUADS.
#ifndef HEAD_ROWS_GLSL
#define HEAD_ROWS_GLSL

#include "quads.glsl"

void store_quad(uvec2 base, uint index, uint end, vec4 v) {
    if (QUADS) {
        store_value4(base, index, v);
        return;
    }
    store_some2(base, index, v.xy, min(end - index, 2u));
    if (end - index > 2u) {
        store_some2(base, index + 2u, v.zw, min(end - index - 2u, 2u));
    }
}

#endif
