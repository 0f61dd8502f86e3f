#version 450
// canvas, fragments: the interpolated colour, its alpha times the nearest texel of the atlas. The pipeline mixes it with what
// is behind: source alpha, one minus source alpha.
//
// Bindings: set 0, binding 0: the atlas, R8, one texel an alpha.
// Oracle: canvas.Raster

layout(location = 0) in vec2 glyph;
layout(location = 1) in vec4 ink;

layout(location = 0) out vec4 color;

layout(set = 0, binding = 0) uniform sampler2D atlas;

void main() {
    // A corner on the atlas's edge may be interpolated to just outside.
    ivec2 texel = clamp(ivec2(floor(glyph)), ivec2(0), textureSize(atlas, 0) - 1);
    color = vec4(ink.rgb, ink.a * texelFetch(atlas, texel, 0).r);
}
