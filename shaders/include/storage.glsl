// Typed loads and stores at a device address. An index counts elements from the base and stays below 2^31: callers
// bring far operands near with address_at, one base per row.
//
// load_value, load_value4, store_value and store_value4 act on the kernel's storage dtype, which the variant's
// macro picks (STORAGE_F32); VALUE_BYTES is its size. load_f32 and friends always mean that type.
#ifndef STORAGE_GLSL
#define STORAGE_GLSL

layout(buffer_reference, std430, buffer_reference_align = 4) buffer F32Words { float at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer I32Words { int at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer U32Words { uint at[]; };
layout(buffer_reference, std430, buffer_reference_align = 16) buffer F32Quads { vec4 at[]; };

float load_f32(uvec2 base, uint index) { return F32Words(base).at[index]; }
void store_f32(uvec2 base, uint index, float value) { F32Words(base).at[index] = value; }

int load_i32(uvec2 base, uint index) { return I32Words(base).at[index]; }
void store_i32(uvec2 base, uint index, int value) { I32Words(base).at[index] = value; }

uint load_u32(uvec2 base, uint index) { return U32Words(base).at[index]; }
void store_u32(uvec2 base, uint index, uint value) { U32Words(base).at[index] = value; }

#if defined(STORAGE_F32)
#define VALUE_BYTES 4u
float load_value(uvec2 base, uint index) { return load_f32(base, index); }
void store_value(uvec2 base, uint index, float value) { store_f32(base, index, value); }
// index is a multiple of 4 and base one of 16
vec4 load_value4(uvec2 base, uint index) { return F32Quads(base).at[index >> 2u]; }
void store_value4(uvec2 base, uint index, vec4 value) { F32Quads(base).at[index >> 2u] = value; }
#endif

#endif
