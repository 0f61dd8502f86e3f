#version 460
// router_losses_backward: the gradient of router_losses' total with respect to the logits of one layer.
//
//   softmax:  d_logits_e (+)= p_e · (w_e − Σ_i p_i·w_i) + z · lse · softmax_e
//   SIGMOID:  d_logits_e (+)= (1 − s_e) · p_e · (w_e − Σ_i p_i·w_i) + z · lse · softmax_e
//   with p the probabilities of router_stats, w = weights, lse = ln Σ_e e^logits_e, and z = 2 · coefficient / N. The
//   choices themselves have no gradient. ACCUMULATE adds to d_logits, otherwise it is overwritten. A row without a softmax
//   has NaN gradients.
//
// Push constants: device addresses of logits f32 [T,E], weights f32 [E], d_logits f32 [T,E]; T, E; z.
// Mapping: LANES neighbouring invocations share a row.
// Accumulation: f32; lane partial sums, then a fixed tree, so results repeat exactly.
// Oracle: internal/ref/router_losses.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint LANES = 8;
layout(constant_id = 2) const bool SIGMOID = false;
layout(constant_id = 3) const bool ACCUMULATE = false;
layout(local_size_x_id = 0) in;

#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 weights;
    uvec2 d_logits;
    uint tokens;
    uint experts;
    float z;
} push;

void main() {
    uint rows = THREADS / LANES;
    uint groups = (push.tokens + rows - 1u) / rows;
    if (group_id() >= groups) {
        return;
    }
    // Lanes beyond the last row do its work once more without storing, so that all meet at the barriers.
    uint row = group_id() * rows + gl_LocalInvocationID.x / LANES;
    bool stores = row < push.tokens;
    row = min(row, push.tokens - 1u);
    uvec2 logits = address_at(push.logits, row, push.experts * 4u);
    uvec2 d_logits = address_at(push.d_logits, row, push.experts * 4u);

    float nans = 0.0;
    uint top_key = KEY_NONE;
    for (uint e = row_lane(); e < push.experts; e += LANES) {
        uint key = key_of(load_f32(logits, e));
        nans += key == KEY_NAN ? 1.0 : 0.0;
        top_key = max(top_key, key);
    }
    nans = row_sum(nans);
    top_key = row_max(top_key);
    bool undefined = no_softmax(nans, top_key);
    float top = undefined ? 0.0 : value_of(top_key);

    float sum = 0.0;
    float scores = 0.0;
    float weighted = 0.0;
    for (uint e = row_lane(); e < push.experts; e += LANES) {
        float logit = load_f32(logits, e);
        float w = weight(key_of(logit), top);
        float score = SIGMOID ? shifted_sigmoid(logit, top) : w;
        sum += w;
        scores += score;
        weighted += score * load_f32(push.weights, e);
    }
    sum = row_sum(sum);
    scores = row_sum(scores);
    float dot = row_sum(weighted) / scores;
    if (!stores) {
        return;
    }
    float z = push.z * (top + log_f32(sum));
    for (uint e = row_lane(); e < push.experts; e += LANES) {
        float logit = load_f32(logits, e);
        float w = weight(key_of(logit), top);
        // 1 − s = σ(−l) without cancellation
        float slope = SIGMOID ? sigmoid(-logit) * shifted_sigmoid(logit, top) : w;
        float value = slope / scores * (load_f32(push.weights, e) - dot) + z * (w / sum);
        value = undefined ? NAN : value;
        if (ACCUMULATE) {
            value += load_f32(d_logits, e);
        }
        store_f32(d_logits, e, value);
    }
}
