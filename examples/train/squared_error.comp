#version 460
// squared_error: the mean squared error of y and its gradient.
//
//   loss  = Σ_i (y[i] − target[i])² / n
//   dy[i] = 2·(y[i] − target[i]) / n
//
// Mapping: one work-group of 128 invocations; invocation i takes elements i, i + 128, …, then the sums are added pairwise.
// The order is fixed, so the same inputs give the same bits. n is at most 2^22 (lavapipe ends loops after 65,535 rounds).
#extension GL_EXT_buffer_reference : require

const uint THREADS = 128u;
layout(local_size_x = 128) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };

layout(push_constant, std430) uniform Push {
    Floats y;
    Floats target;
    Floats dy;
    Floats loss;
    uint n;
} push;

shared float sums[THREADS];

void main() {
    uint lane = gl_LocalInvocationID.x;
    float sum = 0.0;
    for (uint i = lane; i < push.n; i += THREADS) {
        float error = push.y.v[i] - push.target.v[i];
        push.dy.v[i] = 2.0 * error / float(push.n);
        sum += error * error;
    }
    sums[lane] = sum;
    barrier();
    for (uint half_width = THREADS / 2u; half_width > 0u; half_width /= 2u) {
        if (lane < half_width) {
            sum += sums[lane + half_width];
            sums[lane] = sum;
        }
        barrier();
    }
    if (lane == 0u) {
        push.loss.v[0] = sum / float(push.n);
    }
}
