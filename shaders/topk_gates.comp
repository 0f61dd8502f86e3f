#version 460
// topk_gates: the k experts of each token and their gates, from router logits.
//
//   ids[t]   = the k largest of logits[t], largest first, ties to the lower id, NaN below −Inf
//   gates[t] = MODE 0 (softmax, top-k):             e^(l_j − m) / Σ_{all experts} e^(l − m)
//              MODE 1 (softmax, top-k, normalize):  e^(l_j − m) / Σ_{chosen} e^(l − m)
//              MODE 2 (top-k, softmax):             e^(l_j − m) / Σ_{chosen} e^(l − m)
//   with m the row's largest logit. Dividing a softmax by the sum of the chosen probabilities cancels the sum over all
//   experts, so modes 1 and 2 are one formula. A row with a NaN, a +Inf or a largest logit of −Inf has NaN gates.
//
// Push constants: device addresses of logits f32 [T,E], ids i32 [T,k], gates f32 [T,k]; T, E, k.
// Mapping: LANES neighbouring invocations share a row, so a work-group takes THREADS / LANES rows; each row's keys are
// kept in shared memory (KEYS ≥ rows · E words). LANES = 1 runs without a barrier.
// Accumulation: f32; lane partial sums, then a fixed tree, so results repeat exactly.
// Oracle: internal/ref/topk_gates.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint LANES = 8;
layout(constant_id = 2) const uint KEYS = 2048;
layout(constant_id = 3) const uint MODE = 0;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 ids;
    uvec2 gates;
    uint tokens;
    uint experts;
    uint k;
} push;

const uint SOFTMAX_TOPK = 0u;
const uint NO_ID = 0xffffffffu;

shared uint keys[KEYS];
shared uint best_key[THREADS];
shared uint best_id[THREADS];
shared float partial[THREADS];

uint lane;
uint first_key; // the row's place in keys

// above reports whether (key, id) ranks above (other_key, other_id): larger key, or the same key and a lower id.
bool above(uint key, uint id, uint other_key, uint other_id) {
    return key > other_key || (key == other_key && id < other_id);
}

// next_best is the best candidate of the row that ranks below (last_key, last_id), the same for all its lanes.
uvec2 next_best(uint last_key, uint last_id) {
    uint key = 0u;
    uint id = NO_ID;
    for (uint e = lane; e < push.experts; e += LANES) {
        uint candidate = keys[first_key + e];
        if (above(last_key, last_id, candidate, e) && above(candidate, e, key, id)) {
            key = candidate;
            id = e;
        }
    }
    if (LANES == 1u) {
        return uvec2(key, id);
    }
    uint me = gl_LocalInvocationID.x;
    best_key[me] = key;
    best_id[me] = id;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (lane < step && above(best_key[me + step], best_id[me + step], best_key[me], best_id[me])) {
            best_key[me] = best_key[me + step];
            best_id[me] = best_id[me + step];
        }
    }
    barrier();
    uvec2 result = uvec2(best_key[me - lane], best_id[me - lane]);
    barrier(); // the next round overwrites the arrays
    return result;
}

// weight is e^(logit − top), exactly 0 for −Inf.
float weight(uint key, float top) {
    return key <= KEY_NEGATIVE_INF ? 0.0 : exp_f32(value_of(key) - top);
}

// row_sum adds one value per lane; every lane of the row gets the sum.
float row_sum(float value) {
    if (LANES == 1u) {
        return value;
    }
    uint me = gl_LocalInvocationID.x;
    partial[me] = value;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (lane < step) {
            partial[me] += partial[me + step];
        }
    }
    barrier();
    float sum = partial[me - lane];
    barrier();
    return sum;
}

void main() {
    uint rows = THREADS / LANES;
    uint groups = (push.tokens + rows - 1u) / rows;
    if (group_id() >= groups) {
        return;
    }
    uint local_row = gl_LocalInvocationID.x / LANES;
    lane = gl_LocalInvocationID.x % LANES;
    first_key = local_row * push.experts;
    // Lanes beyond the last row do its work once more without storing, so that all meet at the barriers.
    uint row = group_id() * rows + local_row;
    bool stores = row < push.tokens;
    row = min(row, push.tokens - 1u);

    uvec2 logits = address_at(push.logits, row, push.experts * 4u);
    uvec2 ids = address_at(push.ids, row, push.k * 4u);
    uvec2 gates = address_at(push.gates, row, push.k * 4u);
    float nans = 0.0;
    for (uint e = lane; e < push.experts; e += LANES) {
        uint key = key_of(load_f32(logits, e));
        keys[first_key + e] = key;
        nans += key == KEY_NAN ? 1.0 : 0.0;
    }
    nans = row_sum(nans);

    uvec2 chosen = uvec2(0xffffffffu, 0u);
    float top = 0.0;
    uint top_key = 0u;
    float chosen_sum = 0.0;
    for (uint j = 0u; j < push.k; j++) {
        chosen = next_best(chosen.x, chosen.y);
        if (j == 0u) {
            top_key = chosen.x;
            top = top_key == KEY_NAN ? 0.0 : value_of(top_key);
        }
        float w = weight(chosen.x, top);
        chosen_sum += w;
        // The lane that stores a gate now is the one that divides it below.
        if (stores && j % LANES == lane) {
            store_i32(ids, j, int(chosen.y));
            store_f32(gates, j, w);
        }
    }

    float sum = chosen_sum;
    if (MODE == SOFTMAX_TOPK) {
        sum = 0.0;
        for (uint e = lane; e < push.experts; e += LANES) {
            sum += weight(keys[first_key + e], top);
        }
        sum = row_sum(sum);
    }
    bool undefined = nans > 0.0 || top_key >= KEY_POSITIVE_INF || top_key <= KEY_NEGATIVE_INF;
    if (stores) {
        for (uint j = lane; j < push.k; j += LANES) {
            store_f32(gates, j, undefined ? NAN : load_f32(gates, j) / sum);
        }
    }
}
