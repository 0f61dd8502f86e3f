// What the kernels of flash attention on cooperative matrices share: the constants that describe a device's matrices, and how
// an invocation finds the rows and columns of the elements that it holds of an MM × MN accumulator. Which these are is the
// device's affair (coopmat_places.comp asks it), but follows a pattern: index e has SLOTS row bits above SHIFT column bits,
// its row, a slot's, follows from the row bits and its column, a class's, from the others, and the invocations whose numbers
// differ in bits of MATES alone hold the same rows. PAIRS: elements 2i and 2i + 1 are neighbours in a row.
//
// With that a softmax over rows stays in registers. Weights change from accumulators to operands of the next product through
// a strip of shared memory of each subgroup's own. Needs coopmat.glsl.
#ifndef FLASH_COOPMAT_GLSL
#define FLASH_COOPMAT_GLSL
#extension GL_KHR_shader_subgroup_shuffle : require

layout(constant_id = 0) const uint THREADS = 32;
layout(constant_id = 1) const uint SUBGROUP = 32;
layout(constant_id = 2) const uint MI = 1;
layout(constant_id = 3) const uint BN = 32;
layout(constant_id = 4) const uint MM = 16;
layout(constant_id = 5) const uint MN = 16;
layout(constant_id = 6) const uint MK = 16;
layout(constant_id = 7) const uint SLOTS = 2;
layout(constant_id = 8) const uint SHIFT = 1;
layout(constant_id = 9) const uint MATES = 3;
layout(constant_id = 10) const bool PAIRS = true;
layout(constant_id = 11) const uint WIDTH = 64;
layout(constant_id = 12) const uint VALUE_WIDTH = 64;
layout(constant_id = 13) const float CAP = 0.0;
layout(local_size_x_id = 0) in;

const uint SUBGROUPS = THREADS / SUBGROUP;
const uint BM = SUBGROUPS * MI * MM;
const uint ELEMENTS = MM * MN / SUBGROUP; // that an invocation holds of a matrix
const uint CLASSES = ELEMENTS / SLOTS;
const uint EACH = PAIRS ? 2u : 1u;        // elements that are stored at a time
const uint KQ = WIDTH / 8u;               // 16-byte chunks of a row
const uint VQ = VALUE_WIDTH / 8u;
const uint K_ROW = KQ + 1u;               // of a row in shared memory: padded against bank conflicts
const uint V_ROW = VQ + 1u;
const float LOG2_E = 1.44269504;
const float LN_2 = 0.693147181;

uint slot_of(uint e) { return (e >> SHIFT) % SLOTS; }

uint class_of(uint e) { return (e / (SLOTS << SHIFT) << SHIFT) + e % (1u << SHIFT); }

uint my_rows[SLOTS];      // rows of this invocation's elements within a matrix
uint my_columns[CLASSES]; // and their columns

// find_places reads the rows and columns off a matrix of numbers. What is in shared memory before is lost.
#define FIND_PLACES(floats) \
    barrier(); \
    for (uint i = gl_LocalInvocationID.x; i < MM * MN; i += THREADS) { \
        floats[i] = float(i); \
    } \
    barrier(); \
    coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> numbers; \
    coopMatLoad(numbers, floats, 0u, MN, gl_CooperativeMatrixLayoutRowMajor); \
    [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) { \
        my_rows[slot_of(e)] = uint(numbers[e]) / MN; \
        my_columns[class_of(e)] = uint(numbers[e]) % MN; \
    } \
    barrier();

// row_max and row_sum combine what the invocations of a row hold of it, in a fixed order.
float row_max(float v) {
    [[unroll]] for (uint bit = 1u; bit < SUBGROUP; bit *= 2u) {
        if ((MATES & bit) != 0u) {
            v = max(v, subgroupShuffleXor(v, bit));
        }
    }
    return v;
}

float row_sum(float v) {
    [[unroll]] for (uint bit = 1u; bit < SUBGROUP; bit *= 2u) {
        if ((MATES & bit) != 0u) {
            v += subgroupShuffleXor(v, bit);
        }
    }
    return v;
}

// pack_finite rounds two finite values to the storage type, to nearest; a tie of bf16 goes away from 0.
uint pack_finite(vec2 v) {
#ifdef STORAGE_BF16
    uvec2 bits = floatBitsToUint(v) + 0x8000u;
    return bits.x >> 16u | bits.y & 0xffff0000u;
#else
    return packFloat2x16(f16vec2(v));
#endif
}

// has_exponent_of_none says whether one of a word's values is infinite or NaN.
bool is_infinite(uint word) {
#ifdef STORAGE_BF16
    const uint mask = 0x7f80u;
#else
    const uint mask = 0x7c00u;
#endif
    return (word & mask) == mask || (word & mask << 16u) == mask << 16u;
}

#ifdef STORAGE_BF16
ELEMENT element_of(uint bits) { return uintBitsToBFloat16EXT(uint16_t(bits & 0xffffu)); }
#else
ELEMENT element_of(uint bits) { return unpackFloat2x16(bits).x; }
#endif

#endif
