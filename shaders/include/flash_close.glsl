// How a row of flash attention ends, for the kernel and for the merging of its parts.
#ifndef FLASH_CLOSE_GLSL
#define FLASH_CLOSE_GLSL

#include "float.glsl"

const float LOWEST = -3.402823466e38; // a maximum of no scores: finite, so that no difference is Inf − Inf
const float NEGATIVE_INF = uintBitsToFloat(0xff800000u);

// close_row is (what Σ_j e^(s_j − top)·v_j is to be multiplied with, LSE) for a row with sum = Σ_j e^(s_j − top), top being the
// largest score, or LOWEST where there is none above −Inf. Then sum and result are 0.
vec2 close_row(float top, float sum, float sink, bool absent) {
    float best = absent || !(sink > top) ? top : sink;
    float shrink = exp_f32(top - best);
    float all = absent ? sum : sum * shrink + (is_nan(sink) ? sink : exp_f32(sink - best));
    if (all == 0.0) {
        return vec2(0.0, NEGATIVE_INF);
    }
    return vec2(shrink / all, is_nan(all) ? all : best + log_f32(all));
}

#endif
