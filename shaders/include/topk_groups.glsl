// The choice of groups of experts in topk_gates (LIMITED). Needs its keys and push constants, lane and first_key.
#ifndef TOPK_GROUPS_GLSL
#define TOPK_GROUPS_GLSL

// group_key is the key of the sum of a group's two largest keys' values.
uint group_key(uint group, uint size) {
    uint best = KEY_NONE;
    uint second = KEY_NONE;
    for (uint i = 0u; i < size; i++) {
        uint key = keys[first_key + group * size + i];
        second = max(second, min(best, key));
        best = max(best, key);
    }
    if (best == KEY_NAN || second == KEY_NAN) {
        return KEY_NAN;
    }
    return second == KEY_NONE ? best : key_of(value_of(best) + value_of(second));
}

// row_barrier lets the lanes of a row see each other's keys.
void row_barrier() {
    if (LANES > 1u) {
        barrier();
    }
}

// limit_groups takes the experts of all but the best groups out of the row.
void limit_groups() {
    uint size = push.experts / push.groups;
    uint first_group = first_key + push.experts;
    row_barrier();
    for (uint g = lane; g < push.groups; g += LANES) {
        keys[first_group + g] = group_key(g, size);
    }
    row_barrier();
    for (uint g = lane; g < push.groups; g += LANES) {
        uint better = 0u;
        for (uint other = 0u; other < push.groups; other++) {
            better += above(keys[first_group + other], other, keys[first_group + g], g) ? 1u : 0u;
        }
        for (uint i = 0u; better >= push.top_groups && i < size; i++) {
            keys[first_key + g * size + i] = KEY_NONE;
        }
    }
    row_barrier();
}

#endif
