// Reductions over a row that LANES neighbouring invocations share, by a fixed tree, so that results repeat exactly. Every
// invocation of the work-group has to call them. LANES is a power of two that divides THREADS; with LANES = 1 they do
// nothing and meet no barrier. Needs THREADS, LANES and float.glsl.
#ifndef ROW_GLSL
#define ROW_GLSL

shared float row_floats[THREADS];
shared uint row_keys[THREADS];

uint row_lane() {
    return gl_LocalInvocationID.x % LANES;
}

// row_sum adds one value per lane; every lane gets the sum.
float row_sum(float value) {
    if (LANES == 1u) {
        return value;
    }
    uint me = gl_LocalInvocationID.x;
    row_floats[me] = value;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (row_lane() < step) {
            row_floats[me] += row_floats[me + step];
        }
    }
    barrier();
    float sum = row_floats[me - row_lane()];
    barrier(); // the next call overwrites the array
    return sum;
}

// row_max is the largest key of the lanes.
uint row_max(uint key) {
    if (LANES == 1u) {
        return key;
    }
    uint me = gl_LocalInvocationID.x;
    row_keys[me] = key;
    for (uint step = LANES / 2u; step > 0u; step /= 2u) {
        barrier();
        if (row_lane() < step) {
            row_keys[me] = max(row_keys[me], row_keys[me + step]);
        }
    }
    barrier();
    uint result = row_keys[me - row_lane()];
    barrier();
    return result;
}

// weight is e^(logit − top) for the key of a logit, exactly 0 for −Inf.
float weight(uint key, float top) {
    return key <= KEY_NEGATIVE_INF ? 0.0 : exp_f32(value_of(key) - top);
}

// shifted_sigmoid is σ(logit) · e^(−min(top, 0)): scores of a row whose largest logit is top, so scaled that they do not all
// vanish.
float shifted_sigmoid(float logit, float top) {
    float shift = min(top, 0.0);
    return logit < 0.0 ? exp_f32(logit - shift) / (1.0 + exp_f32(logit)) : sigmoid(logit);
}

// no_softmax reports whether the softmax of a row is undefined: it has NaNs, or its largest key is that of +Inf, −Inf or
// NaN.
bool no_softmax(float nans, uint top_key) {
    return nans > 0.0 || top_key >= KEY_POSITIVE_INF || top_key <= KEY_NEGATIVE_INF;
}

#endif
