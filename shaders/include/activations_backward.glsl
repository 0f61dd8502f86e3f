// The activations together with their derivatives, in f32.
#ifndef ACTIVATIONS_BACKWARD_GLSL
#define ACTIVATIONS_BACKWARD_GLSL

#include "activations.glsl"

// sigmoid_both is (σ(x), 1 − σ(x)), each accurate relative to its value.
vec2 sigmoid_both(float x) {
    float e = EXP(-abs(x));
    float q = 1.0 / (1.0 + e);
    return x < 0.0 ? vec2(e * q, q) : vec2(q, e * q);
}

// activate_both is (f(x), f'(x)). ReLU's derivative at 0 is 0; NaN stays NaN.
vec2 activate_both(uint mode, float x) {
    float s;
    vec2 p;
    switch (mode) {
    case GELU:
        p = normal_both(x);
        return vec2(x * p.x, p.x + x * 0.39894228 * p.y); // the density is e^(−x²/2)/√(2π)
    case GELU_TANH:
        p = sigmoid_both(1.59576912 * (x + 0.044715 * x * x * x));
        s = p.x * p.y; // 0 where x² may overflow
        return vec2(x * p.x, p.x + (s == 0.0 ? 0.0 : x * s * (1.59576912 + 0.214068282 * x * x)));
    case SILU:
        p = sigmoid_both(x);
        return vec2(x * p.x, p.x + x * p.x * p.y);
    case RELU:
        s = is_nan(x) ? x : (x > 0.0 ? 1.0 : 0.0); // by its bits: NVIDIA folds the comparisons of a NaN away
        return vec2(x * s, s);
    case SIGMOID:
        p = sigmoid_both(x);
        return vec2(p.x, p.x * p.y);
    default:
        s = positive(x); // RELU2
        return vec2(s * s, 2.0 * s);
    }
}

// activate_gated_both is (h, ∂h/∂gate, ∂h/∂up) of activate_gated. A clamped operand has derivative 0 beyond its limit.
vec3 activate_gated_both(uint mode, float gate, float up, float alpha, float limit) {
    if (mode == CLAMPED_SWIGLU) {
        float g = is_nan(gate) ? gate : min(gate, limit);
        float u = clamp_number(up, -limit, limit);
        vec2 p = sigmoid_both(alpha * g);
        float slope = p.x + alpha * g * p.x * p.y;
        return vec3(g * p.x * (u + 1.0), gate > limit ? 0.0 : slope * (u + 1.0), abs(up) > limit ? 0.0 : g * p.x);
    }
    vec2 f = activate_both(mode, gate);
    return vec3(f.x * up, f.y * up, f.x);
}

#endif
