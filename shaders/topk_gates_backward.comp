#version 460
// topk_gates_backward: the gradient of a router's gates with respect to its logits, the choice held fixed.
//
//   g_j = gate j before scaling (topk_gates.comp), D = Σ_j d_gates_j · g_j, and s_e = σ(logits_e):
//   MODE 0     d_logits_e (+)= scale · p_e · (d_gates_e − D), p the softmax over all experts, d_gates_e = 0 for the others
//   MODE 1, 2  d_logits_e (+)= scale · g_e · (d_gates_e − D) for chosen e, 0 for the others
//   MODE 3     d_logits_e (+)= scale · (1 − s_e) · g_e · d_gates_e for chosen e, 0 for the others
//   MODE 4     d_logits_e (+)= scale · (1 − s_e) · g_e · (d_gates_e − D) for chosen e, 0 for the others
//   ACCUMULATE adds to d_logits, otherwise it is overwritten. Where a row's gates are NaN so is what the formula touches.
//   An id outside [0,E) is passed over.
//
// Push constants: device addresses of logits f32 [T,E], ids i32 [T,k], d_gates f32 [T,k], d_logits f32 [T,E]; T, E, k; scale.
// Mapping: LANES neighbouring invocations share a row. Lane l owns the experts e ≡ l mod LANES and is the only one to write
// them, so nothing has to be ordered between lanes.
// Accumulation: f32; lane partial sums, then a fixed tree, so results repeat exactly.
// Oracle: internal/ref/topk_gates_backward.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint LANES = 8;
layout(constant_id = 2) const uint MODE = 0;
layout(constant_id = 3) const bool ACCUMULATE = false;
layout(local_size_x_id = 0) in;

#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 ids;
    uvec2 d_gates;
    uvec2 d_logits;
    uint tokens;
    uint experts;
    uint k;
    float scale;
} push;

const uint SOFTMAX_TOPK = 0u;
const uint SIGMOID_TOPK = 3u;
const uint SIGMOID_TOPK_NORM = 4u;
const bool SIGMOID = MODE >= SIGMOID_TOPK;

struct Row {
    uvec2 logits;
    uvec2 ids;
    uvec2 d_gates;
    uvec2 d_logits;
    bool undefined; // its gates are NaN
    float top;      // the largest logit of those that the gates are normalized over
    float sum;      // what unnormalized gates are divided by
};

bool valid(uint id) {
    return id < push.experts;
}

// unnormalized is a gate before its division.
float unnormalized(Row row, float logit) {
    return SIGMOID ? sigmoid(logit) : weight(key_of(logit), row.top);
}

// find_sum sets undefined, top and sum.
void find_sum(inout Row row) {
    float nans = 0.0;
    uint top_key = KEY_NONE;
    for (uint e = row_lane(); e < push.experts; e += LANES) {
        uint key = key_of(load_f32(row.logits, e));
        nans += key == KEY_NAN || key == KEY_POSITIVE_INF && !SIGMOID ? 1.0 : 0.0;
        if (MODE == SOFTMAX_TOPK) {
            top_key = max(top_key, key);
        }
    }
    if (MODE != SOFTMAX_TOPK) {
        for (uint j = row_lane(); j < push.k; j += LANES) {
            uint id = load_u32(row.ids, j);
            if (valid(id)) {
                top_key = max(top_key, key_of(load_f32(row.logits, id)));
            }
        }
    }
    nans = row_sum(nans);
    top_key = row_max(top_key);
    row.undefined = SIGMOID ? nans > 0.0 : no_softmax(nans, top_key);
    row.top = top_key <= KEY_NAN ? 0.0 : value_of(top_key);

    float sum = 0.0;
    if (MODE == SOFTMAX_TOPK) {
        for (uint e = row_lane(); e < push.experts; e += LANES) {
            sum += unnormalized(row, load_f32(row.logits, e));
        }
    } else {
        for (uint j = row_lane(); j < push.k; j += LANES) {
            uint id = load_u32(row.ids, j);
            if (valid(id)) {
                sum += unnormalized(row, load_f32(row.logits, id));
            }
        }
    }
    row.sum = row_sum(sum);
    if (MODE == SIGMOID_TOPK) {
        row.sum = 1.0;
    } else if (MODE == SIGMOID_TOPK_NORM) {
        row.sum += 1e-20;
    }
}

// gate_of is the unscaled gate of a logit.
float gate_of(Row row, float logit) {
    return row.undefined ? NAN : unnormalized(row, logit) / row.sum;
}

// inner_product is Σ_j d_gates_j · g_j.
float inner_product(Row row) {
    float inner = 0.0;
    for (uint j = row_lane(); j < push.k; j += LANES) {
        uint id = load_u32(row.ids, j);
        if (valid(id)) {
            inner += load_f32(row.d_gates, j) * gate_of(row, load_f32(row.logits, id));
        }
    }
    return row_sum(inner);
}

void add_to(uvec2 d_logits, uint e, float value) {
    store_f32(d_logits, e, load_f32(d_logits, e) + value);
}

void main() {
    uint rows = THREADS / LANES;
    uint groups = (push.tokens + rows - 1u) / rows;
    if (group_id() >= groups) {
        return;
    }
    // Lanes beyond the last row do its work once more without storing, so that all meet at the barriers.
    uint index = group_id() * rows + gl_LocalInvocationID.x / LANES;
    bool stores = index < push.tokens;
    index = min(index, push.tokens - 1u);

    Row row;
    row.logits = address_at(push.logits, index, push.experts * 4u);
    row.ids = address_at(push.ids, index, push.k * 4u);
    row.d_gates = address_at(push.d_gates, index, push.k * 4u);
    row.d_logits = address_at(push.d_logits, index, push.experts * 4u);
    find_sum(row);
    float inner = MODE == SIGMOID_TOPK ? 0.0 : inner_product(row);
    if (!stores) {
        return;
    }
    for (uint e = row_lane(); e < push.experts; e += LANES) {
        float value = MODE == SOFTMAX_TOPK ? push.scale * gate_of(row, load_f32(row.logits, e)) * -inner : 0.0;
        if (!ACCUMULATE) {
            store_f32(row.d_logits, e, value);
        } else if (MODE == SOFTMAX_TOPK) {
            add_to(row.d_logits, e, value);
        }
    }
    for (uint j = 0u; j < push.k; j++) {
        uint id = load_u32(row.ids, j);
        if (!valid(id) || id % LANES != row_lane()) {
            continue;
        }
        float logit = load_f32(row.logits, id);
        float factor = push.scale * gate_of(row, logit);
        if (SIGMOID) {
            factor *= sigmoid(-logit); // 1 − s without cancellation
        }
        float d_gate = load_f32(row.d_gates, j);
        add_to(row.d_logits, id, factor * (MODE == SOFTMAX_TOPK ? d_gate : d_gate - inner));
    }
}
