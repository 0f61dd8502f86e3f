#version 460
// sampling: draws a token from each row of logits.
//
//   candidates: the k largest logits (k > 0), of those the fewest largest that hold a share top_p of the probability
//   p_i ∝ e^(logit_i · cold) over the candidates,  cold = 1 / temperature
//   ids[b] = the smallest candidate i with Σ_{j ≤ i} p_j > u,  u = ⌊word / 2^8⌋ / 2^24
//
// Ties rank by id, the lower one first. word is the first of Philox-4×32-10 at the counter (b, 0, step, stream) with the key
// seed. GREEDY takes the largest logit instead. NaN ranks below −Inf. A row without a probability distribution gives its
// largest logit.
//
// The candidates are found by bisection on keys, which order floats as integers, and then on ids: every pass goes over the
// row once, and nothing is sorted or stored.
//
// Push constants: device addresses of logits f32 [B,V], ids i32 [B], step u32 [1] (0: step 0); seed, B, V, k, stream, cold,
// top_p (1: all).
// Mapping: a work-group per row.
// Accumulation: f32, in a fixed order.
// Oracle: internal/ref/sampling.go
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"
#include "include/float.glsl"
#include "include/philox.glsl"

layout(constant_id = 0) const uint THREADS = 128;
layout(constant_id = 1) const bool GREEDY = false;
layout(local_size_x_id = 0) in;

#define LANES THREADS
#include "include/row.glsl"

layout(push_constant, std430) uniform Push {
    uvec2 logits;
    uvec2 ids;
    uvec2 step;
    uvec2 seed;
    uint rows;
    uint vocabulary;
    uint k;
    uint stream;
    float cold;
    float top_p;
} push;

// A limit ends the ranking: a candidate ranks at or before it.
struct Limit { uint key; uint id; };

const uint COUNT = 0u; // what measure adds up: candidates
const uint MASS = 1u;  // or their weights

uvec2 row_base;
float top;
shared float chunk[THREADS];
shared uint drawn;

bool within(Limit limit, uint key, uint id) {
    return key > limit.key || (key == limit.key && id <= limit.id);
}

float weight_of(float logit) {
    float w = exp_f32((logit - top) * push.cold);
    return logit == top ? 1.0 : w;
}

// measure adds up over what is within both limits; every lane gets the sum.
float measure(uint what, Limit a, Limit b) {
    float sum = 0.0;
    for (uint first = gl_LocalInvocationID.x; first < push.vocabulary; first += 4u * THREADS) {
        [[unroll]] for (uint j = 0u; j < 4u; j++) {
            uint id = first + j * THREADS;
            if (id < push.vocabulary) {
                float logit = load_f32(row_base, id);
                uint key = key_of(logit);
                float w = what == COUNT ? 1.0 : weight_of(logit);
                sum += key > KEY_NAN && within(a, key, id) && within(b, key, id) ? w : 0.0;
            }
        }
    }
    return row_sum(sum);
}

// bisect finds the highest limit within which, and within the outer one, there is at least need.
Limit bisect(uint what, Limit outer, float need) {
    Limit found = Limit(0u, 0xffffffffu);
    for (uint bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        Limit next = Limit(found.key | bit, 0xffffffffu);
        if (measure(what, outer, next) >= need) {
            found.key = next.key;
        }
    }
    uint short_of = 0u; // the ids below it are too few
    for (uint bit = 1u << findMSB(push.vocabulary); bit > 0u; bit >>= 1u) {
        uint next = short_of | bit;
        if (next < push.vocabulary && measure(what, outer, Limit(found.key, next - 1u)) < need) {
            short_of = next;
        }
    }
    found.id = short_of;
    return found;
}

// draw finds the first candidate at which the running sum of weights exceeds aim, or the last one with a weight.
void draw(Limit limit, float aim) {
    float running = 0.0;
    bool found = false;
    for (uint first = 0u; first < push.vocabulary && !found; first += THREADS) {
        uint id = first + gl_LocalInvocationID.x;
        float logit = load_f32(row_base, min(id, push.vocabulary - 1u));
        uint key = key_of(logit);
        float w = id < push.vocabulary && key > KEY_NAN && within(limit, key, id) ? weight_of(logit) : 0.0;
        chunk[gl_LocalInvocationID.x] = w;
        float sum = row_sum(w);
        found = running + sum > aim;
        if (gl_LocalInvocationID.x == 0u && sum > 0.0) {
            float at = running;
            for (uint i = 0u; i < THREADS; i++) {
                at += chunk[i];
                if (chunk[i] > 0.0) {
                    drawn = first + i;
                    if (at > aim) {
                        break;
                    }
                }
            }
        }
        running += sum;
        barrier();
    }
}

void main() {
    uint row = group_id();
    if (row >= push.rows) {
        return;
    }
    row_base = address_at(push.logits, row, push.vocabulary * 4u);
    uint best = KEY_NONE;
    uint first = 0u; // the complement of the lowest id that has the best key
    for (uint id = gl_LocalInvocationID.x; id < push.vocabulary; id += THREADS) {
        uint key = key_of(load_f32(row_base, id));
        first = key > best ? ~id : first;
        best = max(best, key);
    }
    uint top_key = row_max(best);
    uint top_id = ~row_max(best == top_key ? first : 0u);
    top = load_f32(row_base, min(top_id, push.vocabulary - 1u));
    if (gl_LocalInvocationID.x == 0u) {
        drawn = top_id;
    }
    barrier();
    if (!GREEDY && top_key > KEY_NEGATIVE_INF) {
        Limit limit = Limit(0u, 0xffffffffu);
        if (push.k > 0u && push.k < push.vocabulary) {
            limit = bisect(COUNT, limit, float(push.k));
        }
        float mass = measure(MASS, limit, limit);
        if (push.top_p < 1.0) {
            limit = bisect(MASS, limit, push.top_p * mass);
            mass = measure(MASS, limit, limit);
        }
        uint step = load_u32(readable(push.step, push.logits), 0u);
        step = address_is_null(push.step) ? 0u : step;
        float u = float(philox(uvec4(row, 0u, step, push.stream), push.seed).x >> 8u) / 16777216.0;
        draw(limit, u * mass);
    }
    if (gl_LocalInvocationID.x == 0u) {
        store_i32(push.ids, row, int(drawn));
    }
}
