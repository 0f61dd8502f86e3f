// Which output of W a column of scatter2scatter's tile is, and the stores of an invocation's columns. Needs the kernel's constants,
// column_of and sums.
#ifndef SCATTER2SCATTER_COLUMNS_GLSL
#define SCATTER2SCATTER_COLUMNS_GLSL

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

// store_row stores the invocation's columns of row i.
void store_row(uint i, uint row, uint first_n, float gate, float bias[TN]) {
    if (ACTIVATION == LINEAR) {
        uvec2 base = address_at(push.y, row, push.out_width * OUTPUT_BYTES);
        [[unroll]] for (uint j = 0u; j < TN; j += STEP) {
            uint next = j + STEP - 1u;
            vec2 v = vec2(sums[i * TN + j] + bias[j], sums[i * TN + next] + bias[next]) * gate;
            store_pair(base, tile.column + column_of(first_n, j), push.out_width, v, PAIRS, has(ACCUMULATE));
        }
        return;
    }
    [[unroll]] for (uint j = 0u; j < OWN; j += STEP) {
        uint next = j + STEP - 1u;
        const uint half_n = TN - OWN; // to the ups where GATED
        vec2 v = vec2(sums[i * TN + j] + bias[j], sums[i * TN + next] + bias[next]);
        vec2 up = vec2(sums[i * TN + half_n + j] + bias[half_n + j], sums[i * TN + half_n + next] + bias[half_n + next]);
        store_activated(row, (GATED ? tile.column / 2u : tile.column) + column_of(first_n, j), PAIRS, gate, v, up);
    }
}

#endif
