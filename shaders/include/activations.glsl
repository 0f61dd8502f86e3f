// The element-wise activations, in f32. MODE numbers are those of moe.Activation's functions.
#ifndef ACTIVATIONS_GLSL
#define ACTIVATIONS_GLSL

#include "float.glsl"

const uint GELU = 0u;
const uint GELU_TANH = 1u;
const uint SILU = 2u;
const uint RELU = 3u;
const uint RELU2 = 4u;
const uint SIGMOID = 5u;
const uint CLAMPED_SWIGLU = 6u; // gated only

// normal_both is (Φ(x), e^(−x²/2)). Φ(x) = erfc(−x/√2) / 2, accurate relative to its value in the left tail. With a = |x|/√2 and
// t = 1/(1 + 0.4·a): erfc(a) = e^(−a²)·t·P(t), where P of degree 8 is the Chebyshev fit for a ≤ 10 (9e-8 relative).
vec2 normal_both(float x) {
    float a = abs(x) * 0.70710678;
    float t = 1.0 / (1.0 + 0.4 * a);
    float p = 0.038508509;
    p = fma(p, t, -0.1274464349);
    p = fma(p, t, 0.05845088799);
    p = fma(p, t, 0.1158586134);
    p = fma(p, t, 0.06146568687);
    p = fma(p, t, 0.2007425484);
    p = fma(p, t, 0.200125255);
    p = fma(p, t, 0.2266732652);
    p = fma(p, t, 0.2256217069);
    // x² in two parts: rounding it would cost the tail x² ulp.
    precise float square = x * x;
    precise float rest = fma(x, x, -square);
    float e = EXP(-0.5 * square) * (1.0 - 0.5 * rest);
    if (a > 10.0) { // where x² may overflow too
        e = 0.0;
    }
    float tail = 0.5 * e * t * p;
    return vec2(x < 0.0 ? tail : 1.0 - tail, e);
}

float normal_cdf(float x) {
    return normal_both(x).x;
}

// max(x, 0), NaN staying NaN. A comparison with 0 alone becomes a max instruction on NVIDIA, which drops NaN.
float positive(float x) {
    return is_nan(x) || x > 0.0 ? x : 0.0;
}

float activate(uint mode, float x) {
    switch (mode) {
    case GELU:
        return x * normal_cdf(x);
    case GELU_TANH:
        // (1 + tanh u) / 2 = σ(2u), u = √(2/π)·(x + 0.044715·x³)
        return x * sigmoid(1.59576912 * (x + 0.044715 * x * x * x));
    case SILU:
        return x * sigmoid(x);
    case RELU:
        return positive(x);
    case SIGMOID:
        return sigmoid(x);
    default: // RELU2
        return positive(x) * positive(x);
    }
}

// x within [low, high], NaN staying NaN (see positive).
float clamp_number(float x, float low, float high) {
    return is_nan(x) ? x : clamp(x, low, high);
}

// activate_gated is f(gate)·up, or for CLAMPED_SWIGLU, as gpt-oss has it,
// g·σ(α·g)·(u + 1) with g = min(gate, limit) and u = up within ±limit. NaN stays NaN.
float activate_gated(uint mode, float gate, float up, float alpha, float limit) {
    if (mode == CLAMPED_SWIGLU) {
        float g = is_nan(gate) ? gate : min(gate, limit);
        float u = clamp_number(up, -limit, limit);
        return g * sigmoid(alpha * g) * (u + 1.0);
    }
    return activate(mode, gate) * up;
}

#endif
