// y[i] = a·x[i] + b for i < n: the smallest kernel that shows whether dispatches, barriers, push constants,
// specialization constants and linear work-group ids work. REPEAT rounds make it slow on purpose.
#version 460
#extension GL_EXT_buffer_reference : require

layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;
layout(constant_id = 0) const uint WIDTH = 64;
layout(constant_id = 1) const uint REPEAT = 1;
layout(constant_id = 2) const uint SHARED_WORDS = 1;

layout(buffer_reference, std430, buffer_reference_align = 4) buffer Floats { float v[]; };

layout(push_constant) uniform Push {
	Floats x;
	Floats y;
	float a;
	float b;
	uint n;
};

shared float words[SHARED_WORDS];

void main() {
	uint group = gl_WorkGroupID.x + gl_NumWorkGroups.x * (gl_WorkGroupID.y + gl_NumWorkGroups.y * gl_WorkGroupID.z);
	uint i = group * WIDTH + gl_LocalInvocationID.x;
	if (i >= n) return;
	if (gl_LocalInvocationID.x < SHARED_WORDS) words[gl_LocalInvocationID.x] = 0.0;
	float value = x.v[i];
	for (uint r = 0; r < REPEAT; r++) value = fma(a, value, b);
	y.v[i] = value;
}
