// Top-k of topk_gates by ranks: LANES lanes share a row, of which lane l has the experts 4l to 4l + 3 and compares them with all. The
// number of experts above one is its place. That takes E² comparisons, but no rounds that wait for each other.
// Needs LANES of at least E / 4, row.glsl, the modes and push constants of topk_gates, lane and key_at.
#ifndef TOPK_RANKED_GLSL
#define TOPK_RANKED_GLSL

shared uvec4 row_quads[RANKED ? THREADS : 1u];     // keys by expert
shared uint row_places[RANKED ? THREADS * 4u : 1u]; // keys or logits by place, then weights of the first k
shared uvec2 row_ends[RANKED ? THREADS : 1u];      // the row's largest and least key
shared float row_parts[RANKED ? THREADS : 1u];     // each lane's part of a sum

// places_of counts what is above each of the lane's keys: what is larger or, of lower experts, equal.
uvec4 places_of(uvec4 mine, uint first_lane) {
    uvec4 place = uvec4(0u);
    uvec4 least = mine;
    uint quads = (push.experts + 3u) / 4u;
    for (uint q = 0u; q < quads; q++) {
        uvec4 other = row_quads[first_lane + q];
        least += uint(q == lane);
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            place += uvec4(greaterThanEqual(uvec4(other[i]), least));
        }
    }
    place.y += uint(mine.x == mine.y);
    place.z += uint(mine.x == mine.z) + uint(mine.y == mine.z);
    place.w += uint(mine.x == mine.w) + uint(mine.y == mine.w) + uint(mine.z == mine.w);
    return place;
}

// put_places stores what the lane's experts are by place, and the ids of those that are chosen.
void put_places(uvec4 mine, vec4 values, uint first_lane, uvec2 ids, bool stores) {
    uvec4 place = places_of(mine, first_lane);
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        if (4u * lane + i < push.experts) {
            row_places[4u * first_lane + place[i]] = SIGMOID ? floatBitsToUint(values[i]) : mine[i];
            if (place[i] == 0u) {
                row_ends[first_lane].x = mine[i];
            }
            if (place[i] == push.experts - 1u) {
                row_ends[first_lane].y = mine[i];
            }
            if (stores && place[i] < push.k) {
                store_i32(ids, place[i], int(4u * lane + i));
            }
        }
    }
}

// part_of_sum is the lane's part of the sum that gates are divided by where that is over all experts.
float part_of_sum(uvec4 mine, float top) {
    float part = 0.0;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        part += weight(mine[i], top); // 0 for experts that do not exist
    }
    return part;
}

// choose_by_ranks writes a row's ids and gates.
void choose_by_ranks(uvec2 logits, uvec2 ids, uvec2 gates, bool stores) {
    uint me = gl_LocalInvocationID.x;
    uint first_lane = me - lane;
    vec4 values;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        values[i] = load_f32(logits, min(4u * lane + i, push.experts - 1u));
    }
    uvec4 mine;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint e = 4u * lane + i;
        uint key = key_at(logits, min(e, push.experts - 1u), values[i]);
        mine[i] = e < push.experts ? key : KEY_NONE;
    }
    row_quads[me] = mine;
    barrier();
    put_places(mine, values, first_lane, ids, stores);
    barrier();
    uvec2 ends = row_ends[first_lane];
    float top = ends.x == KEY_NAN ? 0.0 : value_of(ends.x);
    for (uint j = lane; j < push.k; j += LANES) {
        uint chosen = row_places[4u * first_lane + j];
        float w = SIGMOID ? sigmoid(uintBitsToFloat(chosen)) : weight(chosen, top);
        row_places[4u * first_lane + j] = floatBitsToUint(w);
    }
    if (MODE == SOFTMAX_TOPK) {
        row_parts[me] = part_of_sum(mine, top);
    }
    barrier();
    float sum = 0.0;
    if (MODE == SOFTMAX_TOPK) {
        [[unroll]] for (uint i = 0u; i < LANES; i++) {
            sum += row_parts[first_lane + i];
        }
    } else {
        for (uint j = 0u; j < push.k; j++) {
            sum += uintBitsToFloat(row_places[4u * first_lane + j]);
        }
    }
    float divisor = divisor_of(sum);
    bool undefined = gates_undefined(ends.y == KEY_NAN ? 1.0 : 0.0, ends.x);
    for (uint j = lane; stores && j < push.k; j += LANES) {
        float w = uintBitsToFloat(row_places[4u * first_lane + j]);
        store_f32(gates, j, undefined ? NAN : w / divisor * push.scale);
    }
}

#endif
