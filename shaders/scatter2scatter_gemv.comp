#version 460
// scatter2scatter for few rows per expert: decoding. The equation, the layouts and the push constants are those of
// scatter2scatter.comp without DENSE and TRANSPOSED. What takes time is to read W, so a work-group reads its rows of W once for all
// rows of x that a tile has, COLUMNS of them at a time, in loads of 16 bytes.
//
// Mapping: one work-group per BM × BN tile of y, tiles of out fastest. Every TEAM of its invocations owns RN outputs; an
// invocation adds up every TEAM-th chunk of 16 bytes of their inputs, and the team's sums meet in shared memory.
// Requires: in a multiple of a chunk's values (4 in f32, 8 in 16 bits, 16 in int8, 32 in q4), x and W 16-byte aligned; THREADS a
// multiple of TEAM; RN even, and TEAM a multiple of RN/2.
// Where GATED, outputs come in pairs of a gate and the up that it meets; an invocation stores one of h, or two where RN is a
// multiple of 4.
// DEPTH: 0, or how many chunks of an output's weights an invocation loads at once before it adds them, without loads that run ahead;
// a row then is a whole number of TEAM · DEPTH chunks.
// FAST_HALF: the device's own widening of f16 is exact, subnormals included.
// Accumulation: f32, the same for every run: each invocation in ascending order, then FOLD invocations each, then those.
// Oracle: internal/ref/scatter2scatter.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/quads.glsl"
#include "include/bank.glsl"

layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const uint BM = 16;
layout(constant_id = 2) const uint TEAM = 32;
layout(constant_id = 3) const uint RN = 4;
layout(constant_id = 4) const uint COLUMNS = 4;
layout(constant_id = 5) const bool FAST_HALF = false;
layout(constant_id = 6) const uint ACTIVATION = 7; // LINEAR of include/epilogue.glsl
layout(constant_id = 7) const bool GATED = false;
layout(constant_id = 8) const bool INTERLEAVED = false; // only where GATED
layout(constant_id = 9) const uint DEPTH = 0;
layout(local_size_x_id = 0) in;

const uint BN = THREADS / TEAM * RN;
#include "include/scatter2scatter.glsl"
#include "include/weights.glsl"
#include "include/epilogue_pairs.glsl"

const uint SUMS = RN * COLUMNS;
const uint OWN = GATED ? 4u - RN % 4u : 2u; // outputs that an invocation makes results of at once

#include "include/weight_chunks.glsl"

uvec2 x_rows[COLUMNS];
uvec2 w_rows[RN];
#ifdef WEIGHTS_Q4
uvec2 scale_rows[RN];
#endif
float sums[SUMS]; // [output][column]
#ifdef WEIGHTS_INT8
vec4 output_scales; // of the OWN outputs that the invocation stores, for one row of x after the other
#endif

#include "include/decode_ahead.glsl"
#include "include/team_sums.glsl"

// start_weights starts the loads of the first chunks of weights. It repeats the last output where there are fewer: those
// sums are never stored.
void start_weights(uint member, uint first_n) {
#ifdef WEIGHTS_QUANTIZED
    uvec2 matrix = expert_codes();
#else
    uint row_bytes = push.in_width * VALUE_BYTES;
    uvec2 matrix = expert_base(push.w, has(W_TABLE), tile.expert, push.out_width, row_bytes);
#endif
    [[unroll]] for (uint r = 0u; r < RN; r++) {
        uint n = output_of(first_n + r);
#ifdef WEIGHTS_QUANTIZED
        w_rows[r] = row_codes(matrix, n);
#else
        w_rows[r] = address_at(matrix, n, row_bytes);
#endif
#ifdef WEIGHTS_Q4
        scale_rows[r] = row_scales(matrix, n);
#endif
    }
#ifdef WEIGHTS_INT8
    uvec2 scales = row_scales(matrix, 0u);
    uint stored = first_n + member % (RN / OWN) * OWN;
    output_scales.xy = vec2(load_f32(scales, output_of(stored)), load_f32(scales, output_of(stored + 1u)));
    if (OWN == 4u) {
        output_scales.zw = vec2(load_f32(scales, output_of(stored + 2u)), load_f32(scales, output_of(stored + 3u)));
    }
#endif
    load_ahead(member);
}

// find_x_rows finds the rows of x from position first on, and likewise repeats the last.
void find_x_rows(uint first) {
    [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
        uint row = c == 0u ? first : min(first + c, tile.end - 1u); // the first exists: no need to wait for the end
        if (!has(X_GROUPED)) {
            row = slot_of(row);
            row = push.fan_in == 1u ? row : row / push.fan_in;
        }
        x_rows[c] = address_at(push.x, row, push.in_width * INPUT_BYTES);
    }
}

// add_chunk adds the products of now with count rows of x. The sum over a block of quantized weights meets its scale once.
void add_chunk(uint chunk, uint count) {
#ifdef WEIGHTS_Q4
    float terms[SUMS];
    [[unroll]] for (uint i = 0u; i < SUMS; i++) {
        terms[i] = 0.0;
    }
#else
#define terms sums
#endif
    [[unroll]] for (uint part = 0u; part < PARTS; part++) {
        vec4 w[RN * VECTORS];
        [[unroll]] for (uint r = 0u; r < RN; r++) {
            vec4 v[VECTORS];
            widen_part(now[r], part, v);
            [[unroll]] for (uint i = 0u; i < VECTORS; i++) {
                w[r * VECTORS + i] = v[i];
            }
        }
        [[unroll]] for (uint c = 0u; c < COLUMNS; c++) {
            if (c == 0u || c < count) { // there is a first row always
                vec4 x[VECTORS];
                load_x(x_rows[c], chunk * PARTS + part, x);
                [[unroll]] for (uint r = 0u; r < RN; r++) {
                    float sum = terms[r * COLUMNS + c];
                    [[unroll]] for (uint i = 0u; i < VECTORS; i++) {
                        vec4 v = w[r * VECTORS + i];
                        sum = fma(v.x, x[i].x, sum);
                        sum = fma(v.y, x[i].y, sum);
                        sum = fma(v.z, x[i].z, sum);
                        sum = fma(v.w, x[i].w, sum);
                    }
                    terms[r * COLUMNS + c] = sum;
                }
            }
        }
    }
#ifdef WEIGHTS_Q4
    [[unroll]] for (uint i = 0u; i < SUMS; i++) {
        sums[i] = fma(scale_of(scale_now[i / COLUMNS], FAST_HALF), terms[i], sums[i]);
    }
#endif
}

// add_bursts adds up the invocation's share, DEPTH chunks of each output at once.
void add_bursts(uint member, uint chunks, uint count) {
    for (uint chunk = member;;) {
        [[unroll]] for (uint d = 0u; d < DEPTH; d++) {
            take(d);
            add_chunk(chunk + d * TEAM, count);
        }
        chunk += DEPTH * TEAM;
        if (chunk >= chunks) {
            break;
        }
        load_ahead(chunk);
    }
}

// add_inputs adds up the invocation's share, loading weights a step ahead.
void add_inputs(uint member, uint count) {
    [[unroll]] for (uint i = 0u; i < SUMS; i++) {
        sums[i] = 0.0;
    }
    uint chunks = push.in_width / (PARTS * VALUES);
    if (DEPTH > 0u) {
        add_bursts(member, chunks, count);
        return;
    }
    for (uint chunk = member; chunk < chunks; chunk += TEAM) {
        take(0u);
        load_next(0u, chunk + TEAM);
        add_chunk(chunk, count);
    }
}

// store_results adds up the team's sums, OWN outputs per invocation, and stores those of count rows from first on.
void store_results(uint member, uint team, uint first, uint count) {
    bool biased = !address_is_null(push.bias);
    bool gated = !address_is_null(push.gates);
    uvec2 bias = expert_base(biased ? push.bias : push.w, has(BIAS_TABLE), tile.expert, 1u, push.out_width * VALUE_BYTES);
    for (uint i = member; i < SUMS / OWN; i += TEAM) {
        uint c = i / (RN / OWN);
        uint r = i % (RN / OWN) * OWN;
        uint n = tile.column + team * RN + r;
        if (c < count && n < push.end_out) {
            vec2 v = vec2(0.0);
            vec2 w = vec2(0.0); // the third and fourth where OWN is 4
            [[unroll]] for (uint m = 0u; m < TEAM; m += FOLD) {
                uint at = (team * TEAM + m) * STRIDE + r * COLUMNS + c;
                v += vec2(partial[at], partial[at + COLUMNS]);
                if (OWN == 4u) {
                    w += vec2(partial[at + 2u * COLUMNS], partial[at + 3u * COLUMNS]);
                }
            }
#ifdef WEIGHTS_INT8
            v *= output_scales.xy;
            w *= output_scales.zw;
#endif
            if (biased) {
                v += vec2(load_value(bias, output_of(n)), load_value(bias, output_of(n + 1u)));
                if (OWN == 4u) {
                    w += vec2(load_value(bias, output_of(n + 2u)), load_value(bias, output_of(n + 3u)));
                }
            }
            uint position = first + c;
            uint slot = has(Y_GROUPED) && !gated ? position : slot_of(position);
            float gate = gated ? load_f32(push.gates, slot) : 1.0;
            uint row = has(Y_GROUPED) ? position : slot;
            if (ACTIVATION == LINEAR) {
                uvec2 base = address_at(push.y, row, push.row_width * OUTPUT_BYTES);
                store_pair(base, n, push.end_out, v * gate, true, has(ACCUMULATE));
            } else {
                bool pairs = GATED ? OWN == 4u : true;
                store_activated(row, GATED ? n / 2u : n, pairs, gate, GATED ? vec2(v.x, w.x) : v, GATED ? vec2(v.y, w.y) : vec2(0.0));
            }
        }
    }
}

void main() {
    if (!find_tile()) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint team = me / TEAM;
    uint member = me % TEAM;
    uint end = min(tile.first + BM, tile.end);
    for (uint first = tile.first; first < end; first += COLUMNS) {
        uint count = min(COLUMNS, end - first);
        start_weights(member, tile.column + team * RN);
        find_x_rows(first);
        add_inputs(member, count);
        share_sums(me, team, member);
        store_results(member, team, first, count);
        barrier();
    }
}
