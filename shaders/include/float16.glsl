// f16 and bf16 as bits in a uint, in integer arithmetic: drivers flush subnormals in packHalf2x16 or round as they
// like, and many have no 16-bit types. All functions are exact or round to nearest even; their Go twins are vk.ToF16,
// vk.FromF16, vk.ToBF16 and vk.FromBF16.
#ifndef FLOAT16_GLSL
#define FLOAT16_GLSL

// The f32 value of the low 16 bits.
float widen_bf16(uint bits) { return uintBitsToFloat(bits << 16u); }

// Round to nearest even; a NaN keeps its upper bits and becomes quiet.
uint narrow_bf16(float value) {
    uint b = floatBitsToUint(value);
    uint rounded = (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
    return (b & 0x7fffffffu) > 0x7f800000u ? (b >> 16u) | 0x40u : rounded;
}

float widen_f16(uint bits) {
    uint magnitude = (bits & 0x7fffu) << 13u; // exponent and fraction where f32 has them
    uint wide = magnitude + (112u << 23u);    // the difference of the exponents' biases
    // Zero or subnormal: units of 2^-24, a normal f32.
    wide = magnitude < 0x00800000u ? floatBitsToUint(float(bits & 0x3ffu) * 5.9604644775390625e-8) : wide;
    wide = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : wide; // infinity or NaN
    return uintBitsToFloat(wide | ((bits & 0x8000u) << 16u));
}

// Round to nearest even; from 65,520 on to infinity; every NaN becomes the quiet one of its sign.
uint narrow_f16(float value) {
    uint sign = (floatBitsToUint(value) >> 16u) & 0x8000u;
    uint b = floatBitsToUint(value) & 0x7fffffffu;
    // Normal: the fraction's upper 10 bits, and the exponent less the difference of the biases.
    uint normal = (b + 0xfffu + ((b >> 13u) & 1u) - 0x38000000u) >> 13u;
    // Subnormal: the significand in units of 2^-24. Adding half a unit less 1, or half a unit where the result would be
    // odd, makes the shift round to nearest even. Below 2^-25 all is shifted out.
    uint shift = clamp(126u - min(b >> 23u, 126u), 1u, 26u);
    uint significand = (b & 0x7fffffu) | 0x800000u;
    uint subnormal = (significand + (1u << (shift - 1u)) - 1u + ((significand >> shift) & 1u)) >> shift;
    uint bits = b < 0x38800000u ? subnormal : normal;
    bits = b >= 0x477ff000u ? 0x7c00u : bits;
    return sign | (b > 0x7f800000u ? 0x7e00u : bits);
}

#endif
