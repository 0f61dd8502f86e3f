// Ranks of a work-group's invocations among those with the same bucket, 0 to E or NO_BUCKET, without subgroup operations. With MASKS
// every 32 invocations have a mask per bucket, in which each sets its bit, and bits are counted; without, each invocation compares
// its bucket with all others. Needs THREADS, MASKS and push.experts.
#ifndef BUCKET_RANKS_GLSL
#define BUCKET_RANKS_GLSL

const uint NO_BUCKET = 0xffffffffu;

shared uint masks[MASKS > 0u ? MASKS : 1u]; // [THREADS / 32][E + 1]
shared uvec4 chunk[MASKS > 0u ? 1u : THREADS / 4u];

// clear_ranks comes before put_bucket, and that before rank, with barriers in between.
void clear_ranks(uint me) {
    for (uint i = me; i < MASKS; i += THREADS) {
        masks[i] = 0u;
    }
}

void put_bucket(uint me, uint bucket) {
    if (MASKS == 0u) {
        chunk[me / 4u][me % 4u] = bucket;
    } else if (bucket != NO_BUCKET) {
        atomicOr(masks[me / 32u * (push.experts + 1u) + bucket], 1u << me % 32u);
    }
}

uvec2 rank_by_masks(uint me, uint bucket) {
    uvec2 result = uvec2(0u);
    [[unroll]] for (uint q = 0u; q < THREADS / 32u; q++) {
        uint mask = masks[q * (push.experts + 1u) + min(bucket, push.experts)];
        uint lower = q < me / 32u ? 0xffffffffu : q == me / 32u ? (1u << me % 32u) - 1u : 0u;
        result += uvec2(bitCount(mask & lower), bitCount(mask));
    }
    return result;
}

// rank returns how many invocations have this bucket: those before me, and all.
uvec2 rank(uint me, uint bucket) {
    if (MASKS > 0u) {
        return rank_by_masks(me, bucket);
    }
    uvec4 before = uvec4(0u);
    uvec4 all = uvec4(0u);
    uvec4 place = uvec4(0u, 1u, 2u, 3u);
    for (uint q = 0u; q < THREADS / 4u; q++) {
        uvec4 same = uvec4(equal(chunk[q], uvec4(bucket)));
        all += same;
        before += same * uvec4(lessThan(place, uvec4(me)));
        place += 4u;
    }
    return uvec2(before.x + before.y + before.z + before.w, all.x + all.y + all.z + all.w);
}

#endif
