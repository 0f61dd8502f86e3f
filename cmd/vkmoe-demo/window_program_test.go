//go:build desktop && linux

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/session"
	"github.com/vkmoe/vkmoe/internal/xtest"
)

const programVariable = "VKMOE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" { // this process is to be the program itself
		main()
	}
	xtest.Main(m)
}

// program runs the program in a process of its own.
func program(t *testing.T, display string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), programVariable+"=1", "DISPLAY="+display, "WAYLAND_DISPLAY=")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	return cmd, &said
}

func exitOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func TestProgramInAWindow(t *testing.T) {
	xtest.Skip(t)
	screen, err := xtest.Start(1400, 900, 96)
	require.NoError(t, err)
	t.Cleanup(screen.Stop)

	t.Run("unknown device", func(t *testing.T) {
		cmd, said := program(t, screen.Display, "--out", t.TempDir(), "--device", "no such thing")
		require.Equal(t, exitUnusable, exitOf(t, cmd), said)
		require.Contains(t, said.String(), `there is no device "no such thing"`)
		require.NotContains(t, said.String(), "window")
	})
	t.Run("frames", func(t *testing.T) {
		cmd, said := program(t, screen.Display, "--out", t.TempDir(), "--window", "--frames", "3")
		require.Zero(t, exitOf(t, cmd), said)
	})
	t.Run("closed by the window manager", func(t *testing.T) {
		out := t.TempDir()
		cmd, said := program(t, screen.Display, "--out", out)
		id, err := screen.Find("vkmoe.*step [1-9].*frames", time.Minute) // so that there is something to be saved
		require.NoError(t, err)
		_, err = screen.Do("windowactivate", "--sync", id, "key", "alt+F4")
		require.NoError(t, err)
		require.Zero(t, exitOf(t, cmd), said)
		require.FileExists(t, filepath.Join(out, session.FileName))
	})
	t.Run("interrupted", func(t *testing.T) {
		cmd, said := program(t, screen.Display, "--out", t.TempDir())
		_, err := screen.Find("vkmoe.*training.*drawn by", time.Minute)
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.Equal(t, exitInterrupted, exitOf(t, cmd), said)
	})
}

func TestProgramWithoutADisplay(t *testing.T) {
	for _, display := range []string{"", ":7654"} {
		cmd, said := program(t, display, "--out", t.TempDir(), "--window", "--steps", "1")
		require.Equal(t, exitUnusable, exitOf(t, cmd), said)
		require.Contains(t, said.String(), "display")
	}
}

// A display that turns out not to be there is no reason to train nothing, unless a window was asked for.
func TestNoWindowAfterAll(t *testing.T) {
	t.Setenv("DISPLAY", ":7654")
	o := &options{Out: t.TempDir(), Steps: 2, Prompt: "Light"}
	tiny := tinySession(t, "", o.Steps)
	open := func() (*session.Session, error) { return tiny, nil }
	var said bytes.Buffer
	var err error
	xtest.OnMain(func() { _, err = show(t.Context(), open, o, true, io.Discard, &said) })
	require.NoError(t, err)
	require.Contains(t, said.String(), "Failed to open display :7654; going on without a window")
	require.FileExists(t, filepath.Join(o.Out, pictureFile))

	o.Window = true
	var s *session.Session
	xtest.OnMain(func() { s, err = show(t.Context(), open, o, true, io.Discard, &said) })
	require.Nil(t, s)
	require.ErrorIs(t, err, errNoWindow)
	require.Equal(t, exitUnusable, exitCode(err, true, &said))
}
