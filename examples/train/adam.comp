#version 460
// adam: one step of Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) on n parameters.
//
//   m = β1·m + (1 − β1)·g        v = β2·v + (1 − β2)·g²
//   w = w − rate · (m / (1 − β1ᵗ)) / (√(v / (1 − β2ᵗ)) + ε)
//
// The powers of the betas are read from decay [2], which adam_decay brings up to date: a recording that is submitted again
// has the same push constants every time, so what changes from step to step lives in a tensor.
//
// Mapping: one invocation per parameter.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 64) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };

layout(push_constant, std430) uniform Push {
    Floats w;
    Floats g;
    Floats m;
    Floats v;
    Floats decay;
    uint n;
    float rate;
    float beta1;
    float beta2;
    float epsilon;
} push;

void main() {
    uint group = gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
    uint i = group * 64u + gl_LocalInvocationID.x;
    if (i >= push.n) {
        return;
    }
    float g = push.g.v[i];
    float m = push.beta1 * push.m.v[i] + (1.0 - push.beta1) * g;
    float v = push.beta2 * push.v.v[i] + (1.0 - push.beta2) * g * g;
    push.m.v[i] = m;
    push.v.v[i] = v;
    float mean = m / (1.0 - push.decay.v[0]);
    float square = v / (1.0 - push.decay.v[1]);
    push.w.v[i] -= push.rate * mean / (sqrt(square) + push.epsilon);
}
