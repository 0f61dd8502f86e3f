#version 460
// lora_output: adds the experts' results to those of the dense layer.
//
//   y[t,c] += Σ_j gates[t,j] · high[inverse[t·k + j], c]      j ascending
//
// It shows how a kernel goes from a token to its rows in expert order: slot t·k + j lies in grouped row inverse[slot], or
// nowhere when that is −1.
//
// y [tokens,width], gates [tokens,k], inverse [tokens·k], high [tokens·k,width] grouped.
// Mapping: one invocation per element of y.
#extension GL_EXT_buffer_reference : require

layout(local_size_x = 64) in;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer Ints { int v[]; };

layout(push_constant, std430) uniform Push {
    Floats high;
    Floats gates;
    Ints inverse;
    Floats y;
    uint tokens;
    uint width;
    uint k;
} push;

void main() {
    // Linear work-groups are folded over three axes, and there may be a few too many.
    uint group = gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
    uint i = group * 64u + gl_LocalInvocationID.x;
    if (i >= push.tokens * push.width) {
        return;
    }
    uint token = i / push.width;
    uint column = i % push.width;
    float sum = 0.0;
    for (uint j = 0u; j < push.k; j++) {
        uint slot = token * push.k + j;
        int row = push.inverse.v[slot];
        if (row >= 0) {
            sum += push.gates.v[slot] * push.high.v[uint(row) * push.width + column];
        }
    }
    push.y.v[i] += sum;
}
