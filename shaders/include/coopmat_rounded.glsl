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

// quiet_nans makes a NaN whose rounding is like a number's of every NaN in row i of the subgroup's matrices; NVIDIA's would become 0. A
// sum of magnitudes, one addition each, is infinite or NaN where there is one; four sums because an addition waits for the one
// before. Rounding to f16 need not know.
void quiet_nans(uint i) {
#ifdef STORAGE_BF16
    vec4 sum = vec4(0.0);
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
            sum[(j * ELEMENTS + e) % 4u] += abs(sums[i * NI + j][e]);
        }
    }
    if ((floatBitsToUint(sum.x + sum.y + (sum.z + sum.w)) & 0x7fffffffu) < 0x7f800000u) {
        return;
    }
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e++) {
            if ((floatBitsToUint(sums[i * NI + j][e]) & 0x7fffffffu) > 0x7f800000u) {
                sums[i * NI + j][e] = uintBitsToFloat(0x7fc00000u);
            }
        }
    }
#endif
}

// put_rounded stores row i of the subgroup's matrices in its strip: two elements at a time where all of an invocation's are
// neighbours, two by two.
void put_rounded(uint strip, uint i) {
    quiet_nans(i);
    [[unroll]] for (uint j = 0u; j < NI; j++) {
        uint first = 8u * strip + j * MN;
        [[unroll]] for (uint e = 0u; e < ELEMENTS; e += 2u) {
            uint word = pack_numbers(vec2(sums[i * NI + j][e], sums[i * NI + j][e + 1u]));
            if (paired) {
                words[(first + places[e]) / 2u] = word;
            } else {
                elements[first + places[e]] = element_of(word);
                elements[first + places[e + 1u]] = element_of(word >> 16u);
            }
        }
    }
}

#endif
