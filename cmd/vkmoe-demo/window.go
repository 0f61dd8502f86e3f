//go:build desktop

package main

// The window is still to come; this keeps GLFW's version pinned in go.mod until it does.
import _ "github.com/go-gl/glfw/v3.3/glfw"
