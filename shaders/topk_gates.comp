#version 460
// topk_gates: the k experts of each token and their gates, from router logits.
//
//   ids[t]   = the k largest of logits[t] (MODES 0 to 2) or of σ(logits[t]) + bias (MODES 3 and 4), largest first, ties to
//              the lower id, NaN below −Inf
//   gates[t] = MODE 0 (softmax, top-k):             scale · e^(l_j − m) / Σ_{all experts} e^(l − m)
//              MODE 1 (softmax, top-k, normalize):  scale · e^(l_j − m) / Σ_{chosen} e^(l − m)
//              MODE 2 (top-k, softmax):             scale · e^(l_j − m) / Σ_{chosen} e^(l − m)
//              MODE 3 (sigmoid, top-k):             scale · σ(l_j)
//              MODE 4 (sigmoid, top-k, normalize):  scale · σ(l_j) / (Σ_{chosen} σ(l) + 1e-20)
//   with m the row's largest logit. Dividing a softmax by the sum of the chosen probabilities cancels the sum over all
//   experts, so modes 1 and 2 are one formula. A row with a NaN has NaN gates; in modes 0 to 2 so has one with a +Inf or a
//   largest logit of −Inf.
//
//   With LIMITED only experts of the top_groups best of `groups` groups of E / groups consecutive experts can be chosen;
//   a group's score is the sum of its two largest keys (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
//
// Push constants: device addresses of logits f32 [T,E], ids i32 [T,k], gates f32 [T,k], bias f32 [E] or 0; T, E, k, groups,
// top_groups; scale.
// Mapping: LANES neighbouring invocations share a row, so a work-group takes THREADS / LANES rows; each row's keys are
// kept in shared memory (KEYS ≥ rows · (E + groups) words). LANES = 1 runs without a barrier. RANKED is another way, without
// LIMITED: see topk_ranked.glsl.
// Accumulation: f32; lane partial sums, then a fixed tree, so results repeat exactly.
// Oracle: internal/ref/topk_gates.go, internal/ref/router.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const uint LANES = 8;
layout(constant_id = 2) const uint KEYS = 2048;
layout(constant_id = 3) const uint MODE = 0;
layout(constant_id = 4) const bool LIMITED = false;
layout(constant_id = 5) const bool RANKED = false;
layout(local_size_x_id = 0) in;

#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 ids;
    uvec2 gates;
    uvec2 bias;
    uint tokens;
    uint experts;
    uint k;
    uint groups;
    uint top_groups;
    float scale;
} push;

const uint SOFTMAX_TOPK = 0u;
const uint SIGMOID_TOPK = 3u;
const uint SIGMOID_TOPK_NORM = 4u;
const bool SIGMOID = MODE >= SIGMOID_TOPK;
const uint NO_ID = 0xffffffffu;
const uint STEP = LANES > 1u ? 4u : 1u; // keys or logits that a lane loads at once, so as to wait once for them

shared uint keys[KEYS];
shared uvec2 best[RANKED ? 1u : 2u * THREADS]; // each lane's candidate, in turns for even and odd rounds

uint lane;
uint first_key; // the row's place in keys: E keys of experts, then those of groups

// above reports whether (key, id) ranks above (other_key, other_id): larger key, or the same key and a lower id.
bool above(uint key, uint id, uint other_key, uint other_id) {
    return key > other_key || (key == other_key && id < other_id);
}

// next_best is the best candidate of the row that ranks below (last_key, last_id), the same for all its lanes. Each lane
// compares all lanes' candidates for itself: that takes less time than a tree with its barriers.
uvec2 next_best(uint round, uint last_key, uint last_id) {
    uint key = KEY_NONE;
    uint id = NO_ID;
    for (uint first = lane; first < push.experts; first += STEP * LANES) {
        uint candidates[STEP];
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            candidates[i] = keys[first_key + min(first + i * LANES, push.experts - 1u)];
        }
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            uint e = first + i * LANES;
            if (e < push.experts && above(last_key, last_id, candidates[i], e) && above(candidates[i], e, key, id)) {
                key = candidates[i];
                id = e;
            }
        }
    }
    if (LANES == 1u) {
        return uvec2(key, id);
    }
    uint mine = (round & 1u) * THREADS + gl_LocalInvocationID.x;
    best[mine] = uvec2(key, id);
    barrier();
    uvec2 result = best[mine - lane];
    [[unroll]] for (uint i = 1u; i < LANES; i++) {
        uvec2 other = best[mine - lane + i];
        result = above(other.x, other.y, result.x, result.y) ? other : result;
    }
    return result;
}

// key_at is the key that an expert with this logit is chosen by.
uint key_at(uvec2 logits, uint e, float logit) {
    uint key = key_of(logit);
    if (SIGMOID && key != KEY_NAN) {
        precise float biased = sigmoid(logit);
        float bias = load_f32(readable(push.bias, logits), e);
        biased += address_is_null(push.bias) ? 0.0 : bias;
        key = key_of(biased);
    }
    return key;
}

// divisor_of is what the weights are divided by: the sum of all experts' (SOFTMAX_TOPK), of the chosen ones', or nothing.
float divisor_of(float sum) {
    return MODE == SIGMOID_TOPK ? 1.0 : MODE == SIGMOID_TOPK_NORM ? sum + 1e-20 : sum;
}

bool gates_undefined(float nans, uint top_key) {
    return SIGMOID ? nans > 0.0 : no_softmax(nans, top_key);
}

#include "include/topk_ranked.glsl"

// load_keys fills the row's keys and returns how many NaNs this lane met.
float load_keys(uvec2 logits) {
    float nans = 0.0;
    for (uint first = lane; first < push.experts; first += STEP * LANES) {
        float values[STEP];
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            values[i] = load_f32(logits, min(first + i * LANES, push.experts - 1u));
        }
        [[unroll]] for (uint i = 0u; i < STEP; i++) {
            uint e = first + i * LANES;
            if (e < push.experts) {
                uint key = key_at(logits, e, values[i]);
                keys[first_key + e] = key;
                nans += key == KEY_NAN ? 1.0 : 0.0;
            }
        }
    }
    return nans;
}

#include "include/topk_groups.glsl"

void main() {
    uint rows = THREADS / LANES;
    uint groups = (push.tokens + rows - 1u) / rows;
    if (group_id() >= groups) {
        return;
    }
    uint local_row = gl_LocalInvocationID.x / LANES;
    lane = row_lane();
    first_key = local_row * (push.experts + (LIMITED ? push.groups : 0u));
    // Lanes beyond the last row do its work once more without storing, so that all meet at the barriers.
    uint row = group_id() * rows + local_row;
    bool stores = row < push.tokens;
    row = min(row, push.tokens - 1u);

    uvec2 logits = address_at(push.logits, row, push.experts * 4u);
    uvec2 ids = address_at(push.ids, row, push.k * 4u);
    uvec2 gates = address_at(push.gates, row, push.k * 4u);
    if (RANKED) {
        choose_by_ranks(logits, ids, gates, stores);
        return;
    }
    float nans = row_sum(load_keys(logits));
    if (LIMITED) {
        limit_groups();
    }

    uvec2 chosen = uvec2(0xffffffffu, 0u);
    float top = 0.0;
    uint top_key = 0u;
    float chosen_sum = 0.0;
    float kept = 0.0; // the lane's first choice of those that it stores; others wait in memory
    for (uint j = 0u; j < push.k; j++) {
        chosen = next_best(j, chosen.x, chosen.y);
        if (j == 0u) {
            top_key = chosen.x;
            top = top_key == KEY_NAN ? 0.0 : value_of(top_key);
        }
        float w = SIGMOID ? sigmoid(load_f32(logits, chosen.y)) : weight(chosen.x, top);
        chosen_sum += w;
        // The lane that stores a gate now is the one that divides it below.
        if (stores && j % LANES == lane) {
            store_i32(ids, j, int(chosen.y));
            if (j < LANES) {
                kept = w;
            } else {
                store_f32(gates, j, w);
            }
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
    float divisor = divisor_of(sum);
    bool undefined = gates_undefined(nans, top_key);
    if (stores) {
        for (uint j = lane; j < push.k; j += LANES) {
            float w = kept;
            if (j >= LANES) {
                w = load_f32(gates, j);
            }
            store_f32(gates, j, undefined ? NAN : w / divisor * push.scale);
        }
    }
}
