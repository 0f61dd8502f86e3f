// What the kernels of flash attention's backward pass share: a work-group owns OWN neighbouring rows of one side, queries or
// keys, and walks OTHER rows of the other side at a time. Of each such tile it computes the logits' products q·k and the
// products dOut·v of all pairs, turns them into probabilities and the logits' gradients, and leaves these in shared memory.
//
// Mapping: THREADS = (OWN / TO)·(OTHER / TX); an invocation computes TX rows of the other side × TO of its own, the
// latter in groups of four neighbours. Columns pass through shared memory CHUNK at a time. For the sums over the other
// side, LANES invocations share OWNS rows, each with every LANES-th quad of their columns. TO, OWNS and CHUNK are multiples of 4.
//
// QUADS has an operand's bit where its rows may be read four values at a time.
//
// A dispatch takes MOST steps of OTHER rows after the first push.skip ones. What a second one for the same rows finds it
// adds to, and so does the first with ACCUMULATE.
//
// Push constants of both kernels, beside the addresses and strides of their operands: query_offsets and key_offsets i32
// [sequences + 1], sequences, queries (rows of q), keys (rows of k), skip, heads (Hkv, and Hq / Hkv in the upper half), window.
//
// Needs head.glsl and OWN_QUERIES, 1 or 0; the kernel declares the push constants.
#ifndef FLASH_BACKWARD_GLSL
#define FLASH_BACKWARD_GLSL

#include "quads.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint OWN = 32;
layout(constant_id = 2) const uint OTHER = 16;
layout(constant_id = 3) const uint TO = 4;
layout(constant_id = 4) const uint TX = 2;
layout(constant_id = 5) const uint CHUNK = 32;
layout(constant_id = 6) const uint LANES = 16;
layout(constant_id = 7) const uint MOST = 0x3fffffff;
layout(constant_id = 8) const uint WIDTH = 64;
layout(constant_id = 9) const uint VALUE_WIDTH = 64;
layout(constant_id = 10) const float SCALE = 1.0;
layout(constant_id = 11) const float SOFT_CAP = 0.0;
layout(constant_id = 12) const bool CAUSAL = false;
layout(constant_id = 13) const bool TILED = false;
layout(constant_id = 14) const bool ACCUMULATE = false;
layout(constant_id = 15) const uint QUADS = 0;
layout(constant_id = 16) const uint HEAD_MAJOR = 0;
layout(constant_id = 17) const uint Q_STRIDE = 64;
layout(constant_id = 18) const uint K_STRIDE = 64;
layout(constant_id = 19) const uint V_STRIDE = 64;
layout(constant_id = 20) const uint DOUT_STRIDE = 64;
layout(local_size_x_id = 0) in;

const uint OWN_QUADS = OWN / 4u;
const uint OWNS = OWN * LANES / THREADS; // own rows of an invocation's sums

#include "flash_backward_rows.glsl"

// accumulates says whether results are added to what is there: by order, or by an earlier dispatch for fewer steps.
bool accumulates() { return ACCUMULATE || push.skip > 0u; }

// store_sums stores four columns of a row of gradients, or adds them to it.
void store_sums(uvec2 row, uint column, uint width, bool quads, bool accumulate, vec4 v) {
    if (quads) {
        if (column < width) {
            store_value4(row, column, accumulate ? load_value4(row, column) + v : v);
        }
        return;
    }
    store_pair(row, column, width, v.xy, true, accumulate);
    store_pair(row, column + 2u, width, v.zw, true, accumulate);
}

#endif
