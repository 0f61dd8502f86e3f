#version 460
// cross_entropy: the loss of next-token prediction and its gradient with respect to the logits.
//
//   z[t,c]        = scale · logits[t,c]
//   losses[t]     = ln Σ_c e^z[t,c] − z[t,target]
//   gradient[t,c] = gradient_scale · scale / count · (e^z[t,c] / Σ_c' e^z[t,c'] − [c = target])
//
// A row whose target is outside [0, V) is ignored: its loss and gradient are 0. In f32 the gradient may take the logits'
// place. NaN or +Inf in a row makes its loss and gradient NaN; −Inf is a probability of 0.
//
// Push constants: device addresses of logits f32 [T,V], gradient [T,V] of the storage dtype (0: none), targets i32 [T],
// losses f32 [T], count u32 [1] (read for the gradient only); T, V, scale, gradient_scale.
// Mapping: LANES neighbouring invocations share a row.
// Accumulation: f32, a lane's columns ascending, then a fixed tree.
// Oracle: internal/ref/cross_entropy.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint LANES = 32;
layout(local_size_x_id = 0) in;

#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 gradient;
    uvec2 targets;
    uvec2 losses;
    uvec2 count;
    uint rows;
    uint vocabulary;
    float scale;
    float gradient_scale;
} push;

void main() {
    const uint per_group = THREADS / LANES;
    uint group = group_id();
    if (group >= (push.rows + per_group - 1u) / per_group) {
        return;
    }
    uint row = group * per_group + gl_LocalInvocationID.x / LANES;
    uint lane = row_lane();
    uint columns = row < push.rows ? push.vocabulary : 0u;
    uvec2 logits = address_at(push.logits, row, push.vocabulary * 4u);
    uint top_key = KEY_NONE;
    for (uint c = lane; c < columns; c += LANES) {
        top_key = max(top_key, key_of(push.scale * load_f32(logits, c)));
    }
    float top = value_of(max(row_max(top_key), KEY_NEGATIVE_INF));
    float sum = 0.0;
    for (uint c = lane; c < columns; c += LANES) {
        sum += exp_f32(push.scale * load_f32(logits, c) - top);
    }
    uint target = uint(load_i32(push.targets, min(row, push.rows - 1u)));
    bool counted = target < push.vocabulary;
    float aim = push.scale * load_f32(columns > 0u ? logits : push.logits, counted ? target : 0u);
    sum = row_sum(sum); // and the barrier before the logits are overwritten
    if (lane == 0u && columns > 0u) {
        float loss = is_nan(sum) ? NAN : log_f32(sum) + (top - aim);
        store_f32(push.losses, row, counted ? loss : 0.0);
    }
    if (address_is_null(push.gradient)) {
        return;
    }
    uvec2 gradient = address_at(push.gradient, row, push.vocabulary * VALUE_BYTES);
    float factor = push.gradient_scale * push.scale / max(1.0, float(load_u32(readable(push.count, push.targets), 0u)));
    for (uint c = lane; c < columns; c += LANES) {
        float p = exp_f32(push.scale * load_f32(logits, c) - top) / sum;
        store_value(gradient, c, counted ? factor * (p - (c == target ? 1.0 : 0.0)) : 0.0);
    }
}
