#version 460
// quantize: the codes and scales of rows of weights (include/weights.glsl says how they lie).
//
//   WEIGHTS_INT8  scale = max|w|/127 of the row;                  code = w/scale, to the nearest integer
//   WEIGHTS_Q4    scale = w*/(−8), w* being the first weight of largest magnitude of 32, rounded to five significant bits
//                 and to f16;                                     code = w/scale, likewise, within −8 to 7
//
// What has a NaN or an infinity, or a scale beyond 7,936 of WEIGHTS_Q4, gets zeros, and the number of its row goes to fault,
// where the least one stays.
//
// Push constants: device addresses of src, rows of the storage dtype; dst, the codes of expert 0; fault u32 [1]; first, the
// number of the row that src begins with, counted through all experts of dst; rows; in; out; elements of src from row to row
// and from input to input.
// Mapping: one work-group of THREADS invocations per row, each with every THREADS-th word or pair of blocks.
// Oracle: internal/ref/quantize.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 src;
    uvec2 dst;
    uvec2 fault;
    uint first;
    uint rows;
    uint in_width;
    uint out_width;
    uint row_step;
    uint in_step;
} push;

// What weights.glsl wants of scatter2scatter: the expert is that of the row.
struct Row {
    uint expert;
} tile;
#define expert_base(bank, table, expert, rows, bytes) address_at(push.dst, expert, bytes)
#include "include/weights.glsl"

shared uint largest[THREADS];

const uint INFINITE = 0x7f800000u;

uvec2 source; // the row's first weight

float load_weight(uint i) { return load_value(source, i * push.in_step); }

uint magnitude(float v) { return floatBitsToUint(v) & 0x7fffffffu; }

// row_largest is the largest magnitude of what the invocations have, as bits: not less than INFINITE where one is not finite.
uint row_largest(uint mine) {
    uint me = gl_LocalInvocationID.x;
    largest[me] = mine;
    barrier();
    for (uint step = THREADS / 2u; step > 0u; step /= 2u) {
        if (me < step) {
            largest[me] = max(largest[me], largest[me + step]);
        }
        barrier();
    }
    return largest[0];
}

void report(uint row) { atomicMin(U32Words(push.fault).at[0], row); }

#ifdef WEIGHTS_INT8

// code is that of weight i, in the byte that it belongs to.
uint code(uint i, float scale) {
    int c = 0;
    if (i < push.in_width && scale != 0.0) {
        c = clamp(int(roundEven(load_weight(i) / scale)), -127, 127);
    }
    return uint(c + 128) << (8u * (i & 3u));
}

void quantize(uint row, uvec2 codes, uvec2 scales) {
    uint me = gl_LocalInvocationID.x;
    uint mine = 0u;
    for (uint i = me; i < push.in_width; i += THREADS) {
        mine = max(mine, magnitude(load_weight(i)));
    }
    uint bits = row_largest(mine);
    bool bad = bits >= INFINITE;
    // A smaller scale would be subnormal, which devices may flush.
    float scale = bad || bits < 0x04800000u ? 0.0 : uintBitsToFloat(bits) * uintBitsToFloat(0x3c010204u); // 2^-118; 1/127
    for (uint word = me; word < code_words(); word += THREADS) {
        uint i = 4u * word;
        store_u32(codes, word, code(i, scale) | code(i + 1u, scale) | code(i + 2u, scale) | code(i + 3u, scale));
    }
    if (me == 0u) {
        store_f32(scales, 0u, scale);
        if (bad) {
            report(row);
        }
    }
}

#else

// round5 rounds to five significant bits, ties to even.
float round5(float v) {
    uint b = floatBitsToUint(v);
    return uintBitsToFloat((b + 0x3ffffu + ((b >> 19u) & 1u)) & ~0x7ffffu);
}

// scale_bits finds the f16 scale of the block from input i on. What is bad has the scale of f16's infinity.
uint scale_bits(uint i) {
    float extreme = 0.0;
    for (uint j = i; j < min(i + 32u, push.in_width); j++) {
        float w = load_weight(j);
        if (magnitude(w) > magnitude(extreme)) {
            extreme = w;
        }
    }
    uint bits = magnitude(extreme);
    if (bits >= INFINITE) {
        return 0x7c00u;
    }
    if (bits < 0x33000000u) { // 2^-25: rounds to 0, and may be subnormal
        return 0u;
    }
    float scale = round5(extreme * -0.125);
    uint narrow = narrow_f16(scale);
    narrow = (narrow & 0x7fffu) == 0u ? 0u : narrow;
    return abs(scale) > 7936.0 ? 0x7c00u : narrow;
}

uint code(uint i, float scale) {
    int c = 0;
    if (i < push.in_width && scale != 0.0) {
        c = clamp(int(roundEven(load_weight(i) / scale)), -8, 7);
    }
    return uint(c + 8);
}

void quantize(uint row, uvec2 codes, uvec2 scales) {
    uint me = gl_LocalInvocationID.x;
    for (uint pair = me; pair < scale_words(); pair += THREADS) {
        uint both = 0u;
        for (uint side = 0u; side < 2u; side++) {
            uint block = 2u * pair + side;
            if (block * 4u >= code_words()) {
                break;
            }
            uint bits = scale_bits(32u * block);
            if (bits == 0x7c00u) {
                report(row);
                bits = 0u;
            }
            both |= bits << (16u * side);
            float scale = widen_f16(bits);
            for (uint w = 0u; w < 4u; w++) {
                uint word = 0u;
                for (uint j = 0u; j < 8u; j++) {
                    word |= code(32u * block + 8u * w + j, scale) << (4u * j);
                }
                store_u32(codes, 4u * block + w, word);
            }
        }
        store_u32(scales, pair, both);
    }
}

#endif

void main() {
    uint id = group_id();
    if (id >= push.rows) {
        return;
    }
    uint row = push.first + id;
    tile.expert = row / push.out_width;
    uint n = row % push.out_width;
    source = address_at(push.src, id, push.row_step * VALUE_BYTES);
    uvec2 expert = expert_codes();
    quantize(row, row_codes(expert, n), row_scales(expert, n));
}
