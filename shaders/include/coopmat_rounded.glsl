// Results on their way from a subgroup's accumulators to its strip in shared memory, rounded to the storage type already: half the
// memory of f32, and what is copied from there needs no arithmetic. Needs sums, MM, MN, NI, SUBGROUP, and the shared memory as chunks, words,
// elements and floats.
#ifndef COOPMAT_ROUNDED_GLSL
#define COOPMAT_ROUNDED_GLSL

const uint ELEMENTS = MM * MN / SUBGROUP;      // of a matrix of results, by invocation
const uint ROUNDED_STRIDE = NI * MN / 8u + 1u; // chunks of a strip's row, padded against bank conflicts

// Where in its strip an invocation's elements of a subgroup's first matrix belong, and whether they are neighbours, two by two. That is
// the device's affair.
uint places[ELEMENTS];
bool paired;

// rounds_in_registers: only where invocations share a matrix evenly, so that none holds an element that another does, and in pairs.
bool rounds_in_registers() { return ELEMENTS % 2u == 0u && uint(sums[0].length()) == ELEMENTS; }

// find_places needs shared memory from the strip on for MM × MN floats; where a matrix of numbers has a number, others have that element.
void find_places(uint strip, uint lane) {
    for (uint i = lane; i < MM * MN; i += SUBGROUP) {
        floats[4u * strip + i] = float(i);
    }
    subgroup_sync();
    coopmat<float, gl_ScopeSubgroup, MM, MN, gl_MatrixUseAccumulator> numbers;
    coopMatLoad(numbers, floats, 4u * strip, MN, gl_CooperativeMatrixLayoutRowMajor);
    paired = true;
    [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
        uint number = uint(numbers[e]);
        places[e] = number / MN * (8u * ROUNDED_STRIDE) + number % MN;
        paired = paired && (e % 2u == 0u ? places[e] % 2u == 0u : places[e] == places[e - 1u] + 1u);
    }
}

#ifdef STORAGE_BF16
ELEMENT element_of(uint bits) { return uintBitsToBFloat16EXT(uint16_t(bits & 0xffffu)); }
#else
ELEMENT element_of(uint bits) { return unpackFloat2x16(bits).x; }
#endif

// all_numbers reports that none of an invocation's elements of row i of the subgroup's matrices is NaN. A sum of magnitudes, one
// addition each, is infinite or NaN where one is; four sums because an addition waits for the one before. Rounding to f16 need not know.
bool all_numbers(uint i) {
#ifdef STORAGE_BF16
    vec4 sum = vec4(0.0);
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
            sum[(j * ELEMENTS + e) % 4u] += abs(sums[i * NI + j][e]);
        }
    }
    return (floatBitsToUint(sum.x + sum.y + (sum.z + sum.w)) & 0x7fffffffu) < 0x7f800000u;
#else
    return true;
#endif
}

// put_row stores row i of the subgroup's matrices in its strip, two elements at a time or one by one.
void put_row(uint strip, uint i, bool pairs, bool numbers) {
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        uint first = 8u * strip + j * MN;
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e += 2u) {
            vec2 pair = vec2(sums[i * NI + j][e], sums[i * NI + j][e + 1u]);
            uint word = numbers ? pack_numbers(pair) : pack(pair);
            if (pairs) {
                words[(first + places[e]) / 2u] = word;
            } else {
                elements[first + places[e]] = element_of(word);
                elements[first + places[e + 1u]] = element_of(word >> 16u);
            }
        }
    }
}

// put_rounded stores row i of the subgroup's matrices in its strip: two elements at a time where all of an invocation's are
// neighbours, two by two. Without NaN that takes fewer instructions. To replace NaN among the sums first, which would need no third
// loop, made the kernels spill, eight times slower on an H100.
void put_rounded(uint strip, uint i) {
    if (!paired) {
        put_row(strip, i, false, false);
    } else if (all_numbers(i)) {
        put_row(strip, i, true, true);
    } else {
        put_row(strip, i, true, false);
    }
}

#endif
