#version 460
// positions: the position of each token in its sequence, checked against a limit. Sequence b has the tokens
// [offsets[b], offsets[b + 1]) and begins at position starts[b]:
//
//   positions[t] = starts[b] + t − offsets[b];  0 for a token of no sequence
//   status[0]    = the lowest t whose position is outside [0, limit), 2^32 − 1 without one; it must hold that before
//   status[1]    = the largest position that is not negative; it must hold 0 before
//
// GIVEN: positions is an input, which is only checked.
//
// Push constants: device addresses of offsets i32 [B + 1], starts i32 [B] (0: all 0), positions i32 [T], status u32 [2];
// T, B, limit.
// Mapping: an invocation per token, which finds its sequence by bisection.
// Accumulation: atomic minimum and maximum of integers, whose results do not depend on the order.
// Oracle: internal/ref/self_attention.go (Positions), to which starts are added
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(constant_id = 1) const bool GIVEN = false;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 offsets;
    uvec2 starts;
    uvec2 positions;
    uvec2 status;
    uint tokens;
    uint sequences;
    uint limit;
} push;

// position_of finds the last sequence that begins at or before a token.
int position_of(uint token) {
    uint low = 0u;
    uint high = push.sequences;
    while (high - low > 1u) {
        uint middle = (low + high) / 2u;
        if (load_i32(push.offsets, middle) <= int(token)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int begin = load_i32(push.offsets, low);
    int start = load_i32(readable(push.starts, push.offsets), low);
    start = address_is_null(push.starts) ? 0 : start;
    bool inside = begin <= int(token) && int(token) < load_i32(push.offsets, low + 1u);
    return inside ? start + int(token) - begin : 0;
}

void main() {
    uint token = group_id() * THREADS + gl_LocalInvocationID.x;
    if (group_id() * THREADS >= push.tokens || token >= push.tokens) {
        return;
    }
    int position;
    if (GIVEN) {
        position = load_i32(push.positions, token);
    } else {
        position = position_of(token);
        store_i32(push.positions, token, position);
    }
    if (uint(position) >= push.limit) {
        atomicMin(U32Words(push.status).at[0], token);
    }
    if (position > 0) {
        atomicMax(U32Words(push.status).at[1], uint(position));
    }
}
