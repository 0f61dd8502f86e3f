// What every kernel starts with: extensions and the shared includes.
#extension GL_EXT_buffer_reference : require
#extension GL_EXT_buffer_reference_uvec2 : require
#extension GL_EXT_control_flow_attributes : require

#include "address.glsl"
#include "storage.glsl"
#include "dispatch.glsl"
