// f32 functions and tests that do not depend on the driver: what Vulkan asks of exp is loose, of erf and of NaN tests
// nothing at all, and some compilers fold isnan() away.
#ifndef FLOAT_GLSL
#define FLOAT_GLSL

const float NAN = uintBitsToFloat(0x7fc00000u);

// A key orders floats as unsigned integers: NaN is 1, then −Inf … +Inf. Both zeros have one key; 0 is no float's.
const uint KEY_NONE = 0u;
const uint KEY_NAN = 1u;
const uint KEY_NEGATIVE_INF = 0x007fffffu;
const uint KEY_POSITIVE_INF = 0xff800000u;

uint key_of(float value) {
    uint bits = floatBitsToUint(value);
    uint magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return KEY_NAN;
    }
    if (magnitude == 0u) {
        return 0x80000000u;
    }
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

// The float of a key other than KEY_NAN.
float value_of(uint key) {
    return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7fffffffu : ~key);
}

bool is_nan(float value) {
    return (floatBitsToUint(value) & 0x7fffffffu) > 0x7f800000u;
}

// e^x within 2 ulp for −87 ≤ x ≤ 88; 0 below, e^88 above: x = n·ln 2 + r with |r| ≤ ln 2 / 2, and a Taylor polynomial
// of degree 7 in r, whose remainder is below 2^-26. ln 2 is split so that n·(high part) is exact. NaN gives NaN.
float exp_f32(float x) {
    if (x < -87.0) {
        return 0.0;
    }
    float y = x > 88.0 ? 88.0 : x;
    precise float n = floor(y * 1.44269504 + 0.5);
    precise float r = (y - n * 0.693359375) - n * -2.12194440e-4;
    float p = 1.98412698e-4;
    p = fma(p, r, 1.38888889e-3);
    p = fma(p, r, 8.33333333e-3);
    p = fma(p, r, 4.16666667e-2);
    p = fma(p, r, 1.66666667e-1);
    p = fma(p, r, 0.5);
    p = fma(p, r * r, r) + 1.0;
    float scaled = p * uintBitsToFloat(uint(int(n) + 127) << 23u);
    return is_nan(x) ? x : scaled;
}

// The exponential of sigmoid and of activations.glsl. A kernel that stores results in 16 bits may define it as exp: what Vulkan asks of
// that, 3 + 2·|x| ulp, is 2^-15 at worst.
#ifndef EXP
#define EXP exp_f32
#endif

// 1 / (1 + e^-x), accurate relative to its value in both tails.
float sigmoid(float x) {
    float e = EXP(-abs(x));
    float q = 1.0 / (1.0 + e);
    return x < 0.0 ? e * q : q;
}

// ln x within about 4 ulp for normal x > 0: x = 2^n·m with √½ ≤ m < √2, and ln m = 2·artanh(s) with s = (m − 1)/(m + 1),
// by its series to s^9, whose remainder is below 2^-28 of ln m.
float log_f32(float x) {
    uint bits = floatBitsToUint(x);
    uint shifted = bits - 0x3f3504f3u; // from √½ on
    float n = float(int(shifted) >> 23);
    float m = uintBitsToFloat((shifted & 0x7fffffu) + 0x3f3504f3u);
    float s = (m - 1.0) / (m + 1.0);
    float s2 = s * s;
    float p = 2.0 / 9.0;
    p = fma(p, s2, 2.0 / 7.0);
    p = fma(p, s2, 2.0 / 5.0);
    p = fma(p, s2, 2.0 / 3.0);
    float ln_m = fma(p * s2, s, 2.0 * s);
    return fma(n, 0.69314718, ln_m);
}

// tanh x within about 4 ulp: an odd polynomial of degree 11, interpolated at Chebyshev nodes (0.7 ulp), for |x| < 0.625, and
// 1 − 2/(e^2|x| + 1) beyond. NaN gives NaN.
float tanh_f32(float x) {
    float a = abs(x);
    float z = x * x;
    float p = -0.00609671418;
    p = fma(p, z, 0.0209971797);
    p = fma(p, z, -0.0538509078);
    p = fma(p, z, 0.133327693);
    p = fma(p, z, -0.333333284);
    float large = 1.0 - 2.0 / (exp_f32(2.0 * a) + 1.0);
    return a < 0.625 ? fma(p * z, x, x) : (x < 0.0 ? -large : large);
}

#endif
