#version 460
// router_stats: sums over the tokens of a router, a row of partial sums per block of consecutive tokens.
//
//   partial[b][e]     = Σ_{t in block b} p[t][e], p the softmax of logits[t], or with SIGMOID σ(logits[t][e]) / Σ_i σ(…)
//   partial[b][E]     = Σ_{t in block b} −Σ_e p·ln p
//   partial[b][E + 1] = Σ_{t in block b} (ln Σ_e e^logits[t][e])²
//
//   A row with a NaN or +Inf, or of nothing but −Inf, makes all three NaN.
//
// Push constants: device addresses of logits f32 [T,E], partial f32 [blocks, E + 2]; T, E, rows_per_block, blocks.
// Mapping: a work-group per block. It takes THREADS rows at a time: first an invocation per row finds what the
// probabilities of the row are made of, then neighbouring invocations add neighbouring experts; where there are fewer
// experts than invocations, the rows are dealt out to segments.
// Accumulation: f32, in a fixed order, so results repeat exactly. SUMS ≥ max(THREADS, E).
// Oracle: internal/ref/router_stats.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint SUMS = 1024;
layout(constant_id = 2) const bool SIGMOID = false;
layout(local_size_x_id = 0) in;

const uint LANES = 1u;
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 partial;
    uint tokens;
    uint experts;
    uint rows_per_block;
    uint blocks;
} push;

const float SMALLEST = 1.17549435e-38; // p·ln p is 0 below

shared float sums[SUMS];
shared float tops[THREADS];
shared float inverses[THREADS];

// A row's probabilities are weight · inverse; entropy and lse2 are its terms of the last two sums.
struct Row {
    float top;
    float inverse;
    float entropy;
    float lse2;
};

// sigmoid_row replaces the softmax's inverse and entropy.
void sigmoid_row(uvec2 logits, inout Row row) {
    float sum = 0.0;
    for (uint e = 0u; e < push.experts; e++) {
        sum += shifted_sigmoid(load_f32(logits, e), row.top);
    }
    row.inverse = 1.0 / sum;
    row.entropy = 0.0;
    for (uint e = 0u; e < push.experts; e++) {
        float p = shifted_sigmoid(load_f32(logits, e), row.top) * row.inverse;
        row.entropy -= p < SMALLEST ? 0.0 : p * log_f32(p);
    }
}

Row read_row(uvec2 logits) {
    float nans = 0.0;
    uint top_key = KEY_NONE;
    for (uint e = 0u; e < push.experts; e++) {
        uint key = key_of(load_f32(logits, e));
        nans += key == KEY_NAN ? 1.0 : 0.0;
        top_key = max(top_key, key);
    }
    if (no_softmax(nans, top_key)) {
        return Row(0.0, NAN, NAN, NAN);
    }
    Row row;
    row.top = value_of(top_key);
    float sum = 0.0;
    float moment = 0.0; // Σ_e w·ln w
    for (uint e = 0u; e < push.experts; e++) {
        uint key = key_of(load_f32(logits, e));
        float w = weight(key, row.top);
        sum += w;
        moment += w == 0.0 ? 0.0 : w * (value_of(key) - row.top);
    }
    float ln_sum = log_f32(sum);
    row.inverse = 1.0 / sum;
    row.entropy = ln_sum - moment * row.inverse;
    row.lse2 = (row.top + ln_sum) * (row.top + ln_sum);
    if (SIGMOID) {
        sigmoid_row(logits, row);
    }
    return row;
}

uvec2 row_address(uint row) {
    return address_at(push.logits, row, push.experts * 4u);
}

void main() {
    uint block = group_id();
    if (block >= push.blocks) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    uint width = 1u; // experts side by side
    while (width < push.experts && width < THREADS) {
        width *= 2u;
    }
    uint segments = THREADS / width;
    uint segment = me / width;
    uint column = me % width;
    for (uint e = column; e < push.experts; e += width) {
        sums[segment * width + e] = 0.0;
    }
    float entropy = 0.0;
    float lse2 = 0.0;
    uint first = block * push.rows_per_block;
    uint end = min(first + push.rows_per_block, push.tokens);
    for (uint start = first; start < end; start += THREADS) {
        uint rows = min(THREADS, end - start);
        if (me < rows) {
            Row row = read_row(row_address(start + me));
            tops[me] = row.top;
            inverses[me] = row.inverse;
            entropy += row.entropy;
            lse2 += row.lse2;
        }
        barrier();
        for (uint e = column; e < push.experts; e += width) {
            float sum = sums[segment * width + e];
            for (uint r = segment; r < rows; r += segments) {
                float logit = load_f32(row_address(start + r), e);
                sum += (SIGMOID ? shifted_sigmoid(logit, tops[r]) : weight(key_of(logit), tops[r])) * inverses[r];
            }
            sums[segment * width + e] = sum;
        }
        barrier();
    }

    tops[me] = entropy;
    inverses[me] = lse2;
    barrier();
    uvec2 result = address_at(push.partial, block, (push.experts + 2u) * 4u);
    for (uint e = me; e < push.experts; e += THREADS) {
        float sum = 0.0;
        for (uint s = 0u; s < segments; s++) {
            sum += sums[s * width + e];
        }
        store_f32(result, e, sum);
    }
    if (me == 0u) {
        entropy = 0.0;
        lse2 = 0.0;
        for (uint i = 0u; i < THREADS; i++) {
            entropy += tops[i];
            lse2 += inverses[i];
        }
        store_f32(result, push.experts, entropy);
        store_f32(result, push.experts + 1u, lse2);
    }
}
