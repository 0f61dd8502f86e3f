#version 460
// router_losses: load balancing and z-loss of the routers of L layers with T tokens each, from router_stats_sum.
//
//   pooled:     w[e]    = E · F_e / N,  F_e = Σ_l counts[l][e] / N,  N = max(1, L·T)
//   PER_LAYER:  w[l][e] = E · f_e / N,  f_e = counts[l][e] / counts[l][E],  N = max(1, T); 0 where nothing was chosen
//   loss        = {balance·B + z·Z, B, Z},  B = Σ_{l,e} w · sums[l][e],  Z = Σ_l sums[l][E + 1] / N
//   weights     = balance · (w − mean of w over the experts), what router_losses_backward needs: subtracting a constant
//                 changes no gradient, and where the choices are nearly balanced it takes the cancellation out of it
//
// Push constants: device addresses of sums f32 [L, E + 2], counts u32 [L, E + 1], loss f32 [3], weights f32 [E] or
// [L,E] with PER_LAYER; L, E, T; balance, z.
// Mapping: one work-group; neighbouring invocations take neighbouring experts.
// Accumulation: f32, layers ascending, then a fixed tree, so results repeat exactly.
// Oracle: internal/ref/router_losses.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const bool PER_LAYER = false;
layout(local_size_x_id = 0) in;

#define LANES THREADS
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 sums;
    uvec2 counts;
    uvec2 loss;
    uvec2 weights;
    uint layers;
    uint experts;
    uint tokens;
    float balance;
    float z;
} push;

uvec2 sums_of(uint layer) {
    return address_at(push.sums, layer, (push.experts + 2u) * 4u);
}

uvec2 counts_of(uint layer) {
    return address_at(push.counts, layer, (push.experts + 1u) * 4u);
}

// add_excess adds E · counts[l][e] − counts[l][E] to a 64-bit number (low, high): it is exact and 0 when balanced.
void add_excess(uint l, uint e, inout uvec2 number) {
    uint high, low, carry;
    umulExtended(load_u32(counts_of(l), e), push.experts, high, low);
    number.x = uaddCarry(number.x, low, carry);
    number.y += high + carry;
    number.x = usubBorrow(number.x, load_u32(counts_of(l), push.experts), carry);
    number.y -= carry;
}

// float_of rounds a 64-bit number in two's complement.
float float_of(uvec2 number) {
    bool negative = number.y >= 0x80000000u;
    if (negative) {
        number = uvec2(~number.x + 1u, ~number.y + (number.x == 0u ? 1u : 0u));
    }
    float magnitude = float(number.y) * 4294967296.0 + float(number.x);
    return negative ? -magnitude : magnitude;
}

// pooled_expert stores an expert's weight and returns its term of the balance loss.
float pooled_expert(uint e, float tokens) {
    float choices = 0.0;
    float probability = 0.0;
    uvec2 excess = uvec2(0u);
    for (uint l = 0u; l < push.layers; l++) {
        choices += float(load_u32(counts_of(l), e));
        probability += load_f32(sums_of(l), e);
        add_excess(l, e, excess);
    }
    store_f32(push.weights, e, push.balance * (float_of(excess) / tokens / tokens));
    return float(push.experts) * (choices / tokens) / tokens * probability;
}

// layer_expert does the same for one layer.
float layer_expert(uint l, uint e, float tokens) {
    float choices = float(max(1u, load_u32(counts_of(l), push.experts)));
    uvec2 excess = uvec2(0u);
    add_excess(l, e, excess);
    store_f32(address_at(push.weights, l, push.experts * 4u), e, push.balance * (float_of(excess) / choices / tokens));
    return float(push.experts) * (float(load_u32(counts_of(l), e)) / choices) / tokens * load_f32(sums_of(l), e);
}

void main() {
    if (group_id() > 0u) {
        return;
    }
    uint me = gl_LocalInvocationID.x;
    float tokens = max(1.0, float(push.tokens) * (PER_LAYER ? 1.0 : float(push.layers)));
    float balance = 0.0;
    for (uint e = me; e < push.experts; e += THREADS) {
        if (!PER_LAYER) {
            balance += pooled_expert(e, tokens);
            continue;
        }
        for (uint l = 0u; l < push.layers; l++) {
            balance += layer_expert(l, e, tokens);
        }
    }
    float z = 0.0;
    for (uint l = me; l < push.layers; l += THREADS) {
        z += load_f32(sums_of(l), push.experts + 1u) / tokens;
    }
    balance = row_sum(balance);
    z = row_sum(z);
    if (me == 0u) {
        store_f32(push.loss, 0u, push.balance * balance + push.z * z);
        store_f32(push.loss, 1u, balance);
        store_f32(push.loss, 2u, z);
    }
}
