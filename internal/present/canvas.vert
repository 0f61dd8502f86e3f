#version 450
// canvas, vertices: those of package canvas, from pixels (the origin at the top left) to Vulkan's clip space.
//
//   gl_Position = 2·at/size − 1
//
// Push constants: 2/size of the window in pixels.
// Oracle: canvas.Raster

layout(location = 0) in vec2 at;     // pixels
layout(location = 1) in vec2 texel;  // of the atlas, not normalized
layout(location = 2) in vec4 color;  // not premultiplied

layout(location = 0) out vec2 glyph;
layout(location = 1) out vec4 ink;

layout(push_constant) uniform Push { vec2 pixel; } push;

void main() {
    gl_Position = vec4(at * push.pixel - 1.0, 0.0, 1.0);
    glyph = texel;
    ink = color;
}
