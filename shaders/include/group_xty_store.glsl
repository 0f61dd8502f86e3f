// How group_xty_coopmat writes its tile: by way of shared memory, so that 16 bytes are stored at a time. Strips of MM rows of a
// subgroup's results lie there, in f32 where they are added to c or c is f32, else rounded to the storage type already, which
// takes half the memory and no barriers of the work-group. Needs what group_xty_coopmat declares.
#ifndef GROUP_XTY_STORE_GLSL
#define GROUP_XTY_STORE_GLSL

// store_chunk writes eight results of a row of c, columns n to n + 7.
void store_chunk(uvec2 row, uint n, vec4 low, vec4 high) {
#ifdef OUTPUT_F32
    uint at = n / 4u;
    if (has(ACCUMULATE)) {
        low += uintBitsToFloat(ChunksInOut(row).at[at]);
        high += uintBitsToFloat(ChunksInOut(row).at[at + 1u]);
    }
    ChunksInOut(row).at[at] = floatBitsToUint(low);
    ChunksInOut(row).at[at + 1u] = floatBitsToUint(high);
#else
    if (has(ACCUMULATE)) {
        uvec4 c = ChunksInOut(row).at[n / 8u];
        low += low_of(c);
        high += high_of(c);
    }
    ChunksInOut(row).at[n / 8u] = chunk_of(low, high);
#endif
}

// store_strip writes MM rows from m on of the subgroup's results, which lie in its strip, to c.
void store_strip(uvec2 matrix, uint strip, uint m, uint n, uint lane) {
    const uint width = NI * MN / 8u; // chunks of a row
    for (uint at = lane; at < MM * width; at += SUBGROUP) {
        uint row = m + at / width;
        uint column = n + 8u * (at % width);
        if (WHOLE || row < push.a_width && column < push.b_width) {
            uint from = strip + at / width * STRIP_STRIDE + 2u * (at % width);
            store_chunk(c_row(matrix, row), column,
                uintBitsToFloat(chunks[from]), uintBitsToFloat(chunks[from + 1u]));
        }
    }
}

// store_sums writes the subgroup's results, which begin at row my_m and column my_n of the tile.
void store_sums(uvec2 matrix, uint my_m, uint my_n) {
    uint strip = gl_SubgroupID * STRIP;
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        barrier();
        [[unroll]] for (uint j = 0u; j < NI; j++) {
            coopMatStore(sums[i * NI + j], floats, 4u * strip + j * MN, 4u * STRIP_STRIDE, gl_CooperativeMatrixLayoutRowMajor);
        }
        barrier();
        store_strip(matrix, strip, tile.m + my_m + i * MM, tile.n + my_n, gl_SubgroupInvocationID);
    }
}

#ifndef OUTPUT_F32
#include "coopmat_rounded.glsl"

// store_rounded is store_sums for results of the storage type that replace what c was.
void store_rounded(uvec2 matrix, uint my_m, uint my_n) {
    uint lane = gl_SubgroupInvocationID;
    uint strip = gl_SubgroupID * STRIP;
    barrier(); // nobody needs the tiles in shared memory any more
    find_places(strip, lane);
    const uint width = NI * MN / 8u; // chunks of a row
    [[unroll]] for (uint i = 0u; i < MI; i++) {
        subgroup_sync();
        put_rounded(strip, i);
        subgroup_sync();
        for (uint at = lane; at < MM * width; at += SUBGROUP) {
            uint row = tile.m + my_m + i * MM + at / width;
            uint column = tile.n + my_n + 8u * (at % width);
            if (WHOLE || row < push.a_width && column < push.b_width) {
                ChunksInOut(c_row(matrix, row)).at[column / 8u] =
                    chunks[strip + at / width * ROUNDED_STRIDE + at % width];
            }
        }
    }
}
#endif

#endif
