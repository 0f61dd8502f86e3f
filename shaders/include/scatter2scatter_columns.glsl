// Which output of W a column of scatter2scatter's tile is, and the stores of activated ones. Needs the kernel's constants
// and sums.
#ifndef SCATTER2SCATTER_COLUMNS_GLSL
#define SCATTER2SCATTER_COLUMNS_GLSL

// column_of is the column of an invocation's result j within the tile.
uint column_of(uint first_n, uint j) {
    return PAIRS ? 2u * (first_n + (j >> 1u) * ROWS_N) + (j & 1u) : first_n + j * ROWS_N;
}

// output_at is the output of W in a column of the tile; beyond the last it repeats that.
uint output_at(uint column) {
    if (!GATED) {
        return min(tile.column + column, push.out_width - 1u);
    }
    uint c = min(tile.column / 2u + column % (BN / 2u), hidden_width() - 1u);
    return column < BN / 2u ? gate_output(c) : up_output(c);
}

// output_of_quad is the first of four neighbouring outputs that a TRANSPOSED W is loaded by.
uint output_of_quad(uint quad) {
    if (!GATED || INTERLEAVED) {
        return tile.column + 4u * quad;
    }
    uint c = tile.column / 2u + 4u * (quad % (BN / 8u));
    return quad < BN / 8u ? c : hidden_width() + c;
}

// column_of_quad is the column of the tile where the c-th of them belongs.
uint column_of_quad(uint quad, uint c) {
    return GATED && INTERLEAVED ? (c & 1u) * (BN / 2u) + 2u * quad + c / 2u : 4u * quad + c;
}

// store_activated_rows applies the activation and the gates and scatters the rows. Its loops stay loops, and pick sums by constants:
// the activation is there once, and no sum has to be in memory for the sake of an index (see epilogue.glsl).
void store_activated_rows(uint first_m, uint first_n, bool gated, float bias[TN]) {
    [[dont_unroll]] for (uint i = 0u; i < TM; i++) {
        uint from = tile.first + first_m + i * ROWS_M;
        if (from >= tile.end) {
            break;
        }
        float results[TN];
        [[unroll]] for (uint j = 0u; j < TN; j++) {
            results[j] = bias[j];
            [[unroll]] for (uint s = 0u; s < TM; s++) {
                if (s == i) {
                    results[j] += sums[s * TN + j];
                }
            }
        }
        uint slot = has(Y_GROUPED) && !gated ? from : slot_of(from);
        float gate = gated ? load_f32(push.gates, slot) : 1.0;
        [[dont_unroll]] for (uint at = 0u; at < OWN; at += STEP) {
            vec2 v = vec2(0.0);
            vec2 up = vec2(0.0);
            [[unroll]] for (uint j = 0u; j < OWN; j += STEP) {
                if (j == at) {
                    v = vec2(results[j], results[j + STEP - 1u]);
                    up = vec2(results[TN - OWN + j], results[TN - OWN + j + STEP - 1u]);
                }
            }
            uint c = (GATED ? tile.column / 2u : tile.column) + column_of(first_n, at);
            store_activated(has(Y_GROUPED) ? from : slot, c, PAIRS, gate, v, up);
        }
    }
}

#endif
