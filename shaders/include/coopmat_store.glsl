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

// keep finishes outputs n to n + 7 and, with an activation, stores them in y unless that is null.
void keep(uint row, uint n, inout vec4 low, inout vec4 high) {
    finish(n, low, high);
    if (ACTIVATION != LINEAR && !address_is_null(push.y)) {
        uvec4 z = chunk_of(low, high);
        ChunksInOut(address_at(push.y, row, push.out_width * 2u)).at[n / 8u] = z;
        z ^= push.flags >> 31u; // 0, which compilers cannot know: Mesa's leaves out the rounding of f16 that is undone at once
        low = low_of(z);
        high = high_of(z);
    }
}

// results makes columns n to n + 7 of a row of what is stored, h or y, from sums that lie from the at-th chunk on.
void results(uint row, uint n, uint at, out vec4 low, out vec4 high) {
    low = uintBitsToFloat(chunks[at]);
    high = uintBitsToFloat(chunks[at + 1u]);
    vec4 up_low = vec4(0.0);
    vec4 up_high = vec4(0.0);
    if (GATED) {
        vec4 third = uintBitsToFloat(chunks[at + 2u]);
        vec4 fourth = uintBitsToFloat(chunks[at + 3u]);
        if (INTERLEAVED) {
            keep(row, 2u * n, low, high);
            keep(row, 2u * n + 8u, third, fourth);
        }
        up_low = IN_TURNS ? vec4(low.yw, high.yw) : third;
        up_high = IN_TURNS ? vec4(third.yw, fourth.yw) : fourth;
        if (IN_TURNS) {
            low = vec4(low.xz, high.xz);
            high = vec4(third.xz, fourth.xz);
        }
    }
    if (!INTERLEAVED) {
        keep(row, n, low, high);
        if (GATED) {
            keep(row, hidden_width() + n, up_low, up_high);
        }
    }
    if (ACTIVATION != LINEAR) {
        [[unroll]] for (uint c = 0u; c < 4u; c++) {
            low[c] = activated(low[c], up_low[c]);
            high[c] = activated(high[c], up_high[c]);
        }
    }
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
        if (position < tile.end && n < hidden_width()) {
            uint slot = has(Y_GROUPED) && !gated ? position : slot_of(position);
            float gate = gated ? load_f32(push.gates, slot) : 1.0;
            uint row = has(Y_GROUPED) ? position : slot;
            vec4 low, high;
            results(row, n, strip + m * STRIP_STRIDE + c * (columns / 4u), low, high);
            low *= gate;
            high *= gate;
            uvec2 base = address_at(ACTIVATION == LINEAR ? push.y : push.h, row, hidden_width() * 2u);
            if (has(ACCUMULATE)) {
                uvec4 y = ChunksInOut(base).at[n / 8u];
                low += low_of(y);
                high += high_of(y);
            }
            ChunksInOut(base).at[n / 8u] = chunk_of(low, high);
        }
    }
}

#endif
