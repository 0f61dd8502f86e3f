#version 460
// token_links: links the tokens of one id into a list, in ascending order.
//
//   next[t]     = the smallest u > t with ids[u] = ids[t], or T
//   previous[u] = t where next[t] = u; the others, the first of their id, are left as they are
//
// Push constants: device addresses of ids, next and previous, all i32 [T]; T.
// Mapping: an invocation per token, which looks through those that follow. Frequent ids end soon; the work is at most T²/2
// loads that neighbours share.
// Oracle: internal/ref/embedding.go, through the sum made with the lists
#extension GL_GOOGLE_include_directive : require
#include "include/head.glsl"

layout(constant_id = 0) const uint THREADS = 64;
layout(local_size_x_id = 0) in;

layout(push_constant, std430) uniform Push {
    uvec2 ids;
    uvec2 next;
    uvec2 previous;
    uint tokens;
} push;

void main() {
    uint id = group_id();
    if (id >= (push.tokens + THREADS - 1u) / THREADS) {
        return;
    }
    uint token = id * THREADS + gl_LocalInvocationID.x;
    if (token >= push.tokens) {
        return;
    }
    int mine = load_i32(push.ids, token);
    uint other = token + 1u;
    while (other < push.tokens && load_i32(push.ids, other) != mine) {
        other++;
    }
    store_i32(push.next, token, int(other));
    if (other < push.tokens) {
        store_i32(push.previous, other, int(token));
    }
}
