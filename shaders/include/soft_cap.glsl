// The soft cap of attention logits. Needs float.glsl.
#ifndef SOFT_CAP_GLSL
#define SOFT_CAP_GLSL

#include "float.glsl"

// tanh x within about 4 ulp: its series to x^11 below 0.35, where the remainder is below 2^-26 of it, and
// (1 − e^−2|x|) / (1 + e^−2|x|) above. NaN gives NaN.
float tanh_f32(float x) {
    float a = abs(x);
    float s = a * a;
    float p = -8.8632355e-3;
    p = fma(p, s, 2.18694885e-2);
    p = fma(p, s, -5.39682540e-2);
    p = fma(p, s, 1.33333333e-1);
    p = fma(p, s, -3.33333333e-1);
    float near = fma(p * s, a, a);
    float e = exp_f32(-2.0 * a);
    float y = a < 0.35 ? near : (1.0 - e) / (1.0 + e);
    return x < 0.0 ? -y : y;
}

#endif
