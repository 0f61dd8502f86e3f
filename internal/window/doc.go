// Package window opens a desktop window through GLFW, gathers its events and makes the Vulkan surface that package present draws
// to. It has no OpenGL context and draws nothing itself.
//
// All of it is behind the build tag desktop, because GLFW needs the window system's C headers (on Linux X11's), which a
// machine that only computes lacks: nothing else in the module needs them. scripts/tags.sh prints the tag where they are
// there.
//
// Every function must be called from the main goroutine, locked to the main thread, but for Wake.
package window
