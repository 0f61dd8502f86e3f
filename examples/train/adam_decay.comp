#version 460
// adam_decay: decay = (β1ᵗ, β2ᵗ) for the next step t; it starts at (1, 1).
//
// Mapping: one invocation.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 1) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };

layout(push_constant, std430) uniform Push {
    Floats decay;
    float beta1;
    float beta2;
} push;

void main() {
    push.decay.v[0] *= push.beta1;
    push.decay.v[1] *= push.beta2;
}
