// The weights of scatter2scatter_coopmat on their way from memory to the tile in shared memory, in chunks of eight elements.
// Needs weights.glsl and the kernel's constants.
#ifndef COOPMAT_WEIGHTS_GLSL
#define COOPMAT_WEIGHTS_GLSL

uint w_rows[W_LOADS]; // the invocation's rows of W

// Gates and ups take turns in a tile's columns, except where W is loaded by eight neighbouring outputs and has gates first.
const bool IN_TURNS = TRANSPOSED ? INTERLEAVED : true;
// Outputs between an invocation's loads.
const uint W_APART = GATED ? (TRANSPOSED ? W_STEP : INTERLEAVED ? W_STEP : W_STEP / 2u) : W_STEP;

// output_chunk is which eight outputs those of the tile's chunk are where W is TRANSPOSED; beyond the last it repeats that.
uint output_chunk(uint chunk) {
    uint width = push.out_width / 8u;
    chunk += tile.column / 8u;
    if (!GATED || IN_TURNS) {
        return min(chunk, width - 1u);
    }
    uint c = min(chunk / 2u, width / 2u - 1u);
    return (chunk & 1u) == 0u ? c : width / 2u + c;
}

#ifdef WEIGHTS_QUANTIZED

uvec2 code_base;
uvec2 scale_base;
uvec2 w_next[W_LOADS]; // eight codes: two words, or one and the bits of their scale

// find_w_rows repeats the last row where a tile ends early.
void find_w_rows(uint w_row, uint w_chunk) {
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        w_rows[i] = output_of(tile.column + w_row + i * W_STEP);
    }
    code_base = expert_codes();
    scale_base = row_scales(code_base, 0u);
}

// load_w loads the codes of eight inputs, the at-th such of a row.
uvec2 load_w(uint row, uint at) {
    uint index = row * (code_words() * CODES / 8u) + at;
#ifdef WEIGHTS_INT8
    return U32Pairs(code_base).at[index];
#else
    return uvec2(load_u32(code_base, index), load_scale_bits(scale_base, row * (2u * scale_words()) + at / 4u));
#endif
}

// fetch_w starts the loads of inputs [k, k + BK); inside says whether the invocation's are below in.
void fetch_w(uint k, uint chunk, uint w_row, bool inside) {
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        w_next[i] = inside ? load_w(WHOLE ? w_rows[0] + i * W_APART : w_rows[i], k / 8u + chunk) : uvec2(0u);
    }
}

// chunk_of_w makes elements of what was loaded.
uvec4 chunk_of_w(uvec2 codes) {
    vec4 low, high;
    codes_of8(codes, low, high);
#ifdef WEIGHTS_Q4
    float scale = scale_of(codes.y, true);
    low *= scale;
    high *= scale;
#endif
    return exact_chunk_of(low, high);
}

#else

// w_rows are in chunks from the expert's matrix.
uvec2 w_base;
uvec4 w_next[W_LOADS];

void find_w_rows(uint w_row, uint w_chunk) {
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        if (TRANSPOSED) {
            w_rows[i] = (w_row + i * W_STEP) * (push.out_width / 8u) + output_chunk(w_chunk);
        } else {
            w_rows[i] = output_of(tile.column + w_row + i * W_STEP) * (push.in_width / 8u) + w_chunk;
        }
    }
    uint rows = TRANSPOSED ? push.in_width : push.out_width;
    w_base = expert_base(push.w, has(W_TABLE), tile.expert, rows, (TRANSPOSED ? push.out_width : push.in_width) * 2u);
}

void fetch_w(uint k, uint chunk, uint w_row, bool inside) {
    [[unroll]] for (uint i = 0u; i < W_LOADS; i++) {
        uint stride = (TRANSPOSED ? push.out_width : push.in_width) / 8u;
        uint at = (WHOLE ? w_rows[0] + i * W_APART * stride : w_rows[i]) + (TRANSPOSED ? k * stride : k / 8u);
        bool valid = TRANSPOSED ? WHOLE || k + w_row + i * W_STEP < push.in_width : inside;
        w_next[i] = valid ? Chunks(w_base).at[at] : uvec4(0u);
    }
}

uvec4 chunk_of_w(uvec4 chunk) { return chunk; }

#endif

#endif
