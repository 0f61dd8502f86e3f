//go:build !desktop

package main

import (
	"context"
	"errors"

	"github.com/vkmoe/vkmoe/internal/session"
)

// hasWindow reports whether this program was built with the window.
const hasWindow = false

var errNoWindow = errors.New("--window: this program was built without the window; build it with -tags desktop")

// windowOptions choose how a window runs.
type windowOptions struct {
	Frames                int // drawn before it closes; 0 for no end
	Prompt, Device, DType string
}

func runWindow(context.Context, func() (*session.Session, error), windowOptions) (*session.Session, error) {
	return nil, errNoWindow
}
