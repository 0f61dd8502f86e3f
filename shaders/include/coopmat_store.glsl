// The stores of scatter2scatter_coopmat: eight neighbouring columns of a row at once. Needs the kernel's constants, epilogue.glsl
// and coopmat_weights.glsl.
//
// Where GATED, sixteen columns of a tile make eight of h: gates and ups in turns, or eight gates and then eight ups where W is
// TRANSPOSED and stores gates first (output_chunk of coopmat_weights.glsl).
#ifndef COOPMAT_STORE_GLSL
#define COOPMAT_STORE_GLSL

// finish makes z of the sums of outputs n to n + 7.
void finish(uint n, inout vec4 low, inout vec4 high) {
#ifdef WEIGHTS_INT8
    low *= load_f32x4(scale_base, n);
    high *= load_f32x4(scale_base, n + 4u);
#endif
    if (!address_is_null(push.bias)) {
        uvec4 b = Chunks(expert_base(push.bias, has(BIAS_TABLE), tile.expert, 1u, push.out_width * 2u)).at[n / 8u];
        low += low_of(b);
        high += high_of(b);
    }
}

// keep finishes outputs n to n + 7 and stores them in y unless that is null.
void keep(uint row, uint n, inout vec4 low, inout vec4 high) {
    finish(n, low, high);
    if (!address_is_null(push.y)) {
        uvec4 z = chunk_of(low, high);
        ChunksInOut(address_at(push.y, row, push.out_width * 2u)).at[n / 8u] = z;
        z ^= push.flags >> 31u; // 0, which compilers cannot know: Mesa's leaves out the rounding of f16 that is undone at once
        low = low_of(z);
        high = high_of(z);
    }
}

// activate_chunks makes columns n to n + 7 of a row of h of sums, of which the first eight are in low and high and the rest, where
// GATED, in the chunk at and the next.
void activate_chunks(uint row, uint n, uint at, inout vec4 low, inout vec4 high) {
    vec4 up_low = vec4(0.0);
    vec4 up_high = vec4(0.0);
    if (GATED) {
        up_low = uintBitsToFloat(chunks[at]);
        up_high = uintBitsToFloat(chunks[at + 1u]);
        if (INTERLEAVED) {
            keep(row, 2u * n, low, high);
            keep(row, 2u * n + 8u, up_low, up_high);
        }
        if (IN_TURNS) {
            vec4 first = vec4(low.xz, high.xz);
            vec4 second = vec4(up_low.xz, up_high.xz);
            up_high = vec4(up_low.yw, up_high.yw);
            up_low = vec4(low.yw, high.yw);
            low = first;
            high = second;
        }
    }
    if (!INTERLEAVED) {
        keep(row, n, low, high);
        if (GATED) {
            keep(row, hidden_width() + n, up_low, up_high);
        }
    }
    low = vec4(activated(low.x, up_low.x), activated(low.y, up_low.y), activated(low.z, up_low.z), activated(low.w, up_low.w));
    high = vec4(activated(high.x, up_high.x), activated(high.y, up_high.y), activated(high.z, up_high.z), activated(high.w, up_high.w));
}

// store_strip writes the subgroup's matrices of row i, which lie in its strip, to y or h.
void store_strip(uint strip, uint first_m, uint first_n, uint lane) {
    const uint columns = GATED ? 16u : 8u; // of the tile that make a chunk
    const uint width = NI * MN / columns;  // chunks of a row
    bool gated = !address_is_null(push.gates);
    for (uint at = lane; at < MM * width; at += SUBGROUP) {
        uint m = at / width;
        uint c = at % width;
        uint position = tile.first + first_m + m;
        uint n = (tile.column + first_n) / (columns / 8u) + 8u * c;
        if (position < tile.end && n < result_end()) {
            uint slot = words[4u * SLOTS_FIRST + first_m + m];
            float gate = gated ? load_f32(push.gates, slot) : 1.0;
            uint row = has(Y_GROUPED) ? position : slot;
            uint from = strip + m * STRIP_STRIDE + c * (columns / 4u);
            vec4 low = uintBitsToFloat(chunks[from]);
            vec4 high = uintBitsToFloat(chunks[from + 1u]);
            uvec2 base = address_at(ACTIVATION == LINEAR ? push.y : push.h, row, push.row_width * 2u);
            if (ACTIVATION == LINEAR) {
                finish(n, low, high);
            } else {
                activate_chunks(row, n, from + 2u, low, high);
            }
            low *= gate;
            high *= gate;
            if (has(ACCUMULATE)) {
                uvec4 y = ChunksInOut(base).at[n / 8u];
                low += low_of(y);
                high += high_of(y);
            }
            ChunksInOut(base).at[n / 8u] = chunk_of(low, high);
        }
    }
}

#include "coopmat_rounded.glsl"

// How many strips of rounded results find room at once: what is stored meanwhile waits for nothing.
const uint ROUNDED_STRIP = MM * ROUNDED_STRIDE; // chunks
const uint ROUNDED_FIT = SLOTS_FIRST / (SM * SN * ROUNDED_STRIP);
const uint AT_ONCE = ROUNDED_FIT > MI ? MI : ROUNDED_FIT;
const uint PLACES_STRIP = MM * MN / 4u;
const uint ROUNDED_APART = AT_ONCE * ROUNDED_STRIP > PLACES_STRIP ? AT_ONCE * ROUNDED_STRIP : PLACES_STRIP; // a subgroup's from the next

// copy_rounded writes rows of the tile, from first_m on, which lie rounded in the subgroup's strips, to y.
void copy_rounded(uint strip, uint first_m, uint rows, uint first_n, uint lane) {
    const uint width = NI * MN / 8u; // chunks of a row
    for (uint at = lane; at < rows * width; at += SUBGROUP) {
        uint m = at / width;
        uint c = at % width;
        uint position = tile.first + first_m + m;
        uint n = tile.column + first_n + 8u * c;
        if (position < tile.end && n < result_end()) {
            uint row = has(Y_GROUPED) ? position : words[4u * SLOTS_FIRST + first_m + m];
            ChunksInOut(address_at(push.y, row, push.row_width * 2u)).at[n / 8u] = chunks[strip + m * ROUNDED_STRIDE + c];
        }
    }
}

// store_rounded is store_tile where sums are results but for rounding: AT_ONCE strips at a time. A subgroup's strips take the places of
// tiles that all subgroups are done with.
void store_rounded(uint strips, uint first_m, uint first_n) {
    uint lane = gl_SubgroupInvocationID;
    uint strip = gl_SubgroupID * ROUNDED_APART;
    find_places(strip, lane);
    [[dont_unroll]] for (uint i = 0u; i < strips; i += AT_ONCE) {
        subgroup_sync();
        [[unroll]] for (uint s = 0u; s < MI; s++) {
            if (s / AT_ONCE * AT_ONCE == i && s < strips) {
                put_rounded(strip + s % AT_ONCE * ROUNDED_STRIP, s);
            }
        }
        subgroup_sync();
        copy_rounded(strip, first_m + i * MM, min(AT_ONCE, strips - i) * MM, first_n, lane);
    }
}

// store_tile stores the results of a tile of strips·SM·MM rows, strip by strip through shared memory. The loops, this one and that of
// store_rounded, stay loops and pick a strip's matrices by constants: each kind of store is there once.
void store_tile(uint strips, uint first_n) {
    uint first_m = gl_SubgroupID / SN * (strips * MM);
    uint strip = gl_SubgroupID * STRIP;
    barrier();
    if (PLAIN && rounds_in_registers()) {
        store_rounded(strips, first_m, first_n);
        return;
    }
    [[dont_unroll]] for (uint i = 0u; i < strips; i++) {
        if (i > 0u) {
            subgroup_sync();
        }
        [[unroll]] for (uint s = 0u; s < MI; s++) {
            if (s == i) {
                [[unroll]] for (uint j = 0u; j < NI; j++) {
                    coopMatStore(sums[s * NI + j], floats, 4u * strip + j * MN, 4u * STRIP_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
                }
            }
        }
        subgroup_sync();
        store_strip(strip, first_m + i * MM, first_n, gl_SubgroupInvocationID);
    }
}

#endif
