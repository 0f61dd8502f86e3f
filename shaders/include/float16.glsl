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
    if ((b & 0x7fffffffu) > 0x7f800000u) {
        return (b >> 16u) | 0x40u;
    }
    return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}

float widen_f16(uint bits) {
    uint magnitude = (bits & 0x7fffu) << 13u; // exponent and fraction where f32 has them
    uint wide = magnitude + (112u << 23u);    // the difference of the exponents' biases
    if (magnitude >= 0x0f800000u) {
        wide = magnitude | 0x7f800000u; // infinity or NaN
    } else if (magnitude < 0x00800000u) {
        // zero or subnormal: units of 2^-24, a normal f32
        wide = floatBitsToUint(float(bits & 0x3ffu) * 5.9604644775390625e-8);
    }
    return uintBitsToFloat(wide | ((bits & 0x8000u) << 16u));
}

// Round to nearest even; from 65,520 on to infinity; every NaN becomes the quiet one of its sign.
uint narrow_f16(float value) {
    uint b = floatBitsToUint(value);
    uint sign = (b >> 16u) & 0x8000u;
    b &= 0x7fffffffu;
    if (b > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (b >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (b >= 0x38800000u) {
        return sign | ((b + 0xfffu + ((b >> 13u) & 1u) - 0x38000000u) >> 13u);
    }
    // Subnormal: the significand shifted to units of 2^-24. Below 2^-25 all of it is shifted out.
    uint shift = min(126u - (b >> 23u), 31u);
    uint significand = (b & 0x7fffffu) | 0x800000u;
    uint units = significand >> shift;
    uint rest = significand - (units << shift);
    uint half_unit = 1u << (shift - 1u);
    return sign | (units + (rest > half_unit || (rest == half_unit && (units & 1u) != 0u) ? 1u : 0u));
}

#endif
