// Package xtest gives tests a screen: an X server without hardware (Xvfb) with a window manager (jwm), what it shows as a
// picture, and a keyboard and a mouse (xdotool) that programs cannot tell from real ones. Linux only.
package xtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Programs are what a Screen needs; scripts/need.sh installs them when it is called with "window".
var Programs = []string{"Xvfb", "jwm", "xdotool", "xrdb"}

// RequireVariable, set to 1, makes a failure of a test that would be skipped for want of Programs.
const RequireVariable = "VKMOE_REQUIRE_WINDOW"

// A Screen is a running X server.
type Screen struct {
	Display string // what DISPLAY must be
	folder  string
	stop    []func()
}

// Skip skips the test where Programs are missing.
func Skip(t *testing.T) {
	t.Helper()
	for _, name := range Programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv(RequireVariable) == "1" {
			t.Fatalf("%s is missing: scripts/need.sh window", name)
		}
		t.Skipf("needs %s: scripts/need.sh window", name)
	}
}

// Start starts an X server with one screen at dots per inch of dpi, and a window manager. 96 dots are a scale of 1.
func Start(width, height, dpi int) (_ *Screen, err error) {
	folder, err := os.MkdirTemp("", "vkmoe-screen-")
	if err != nil {
		return nil, err
	}
	s := &Screen{folder: folder}
	s.stop = append(s.stop, func() { os.RemoveAll(folder) })
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	server := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", fmt.Sprintf("%dx%dx24", width, height),
		"-fbdir", folder, "-nolisten", "tcp", "-noreset")
	server.ExtraFiles = []*os.File{write}
	err = s.run(server)
	write.Close()
	if err != nil {
		return nil, err
	}
	read.SetReadDeadline(time.Now().Add(20 * time.Second))
	number := make([]byte, 16)
	n, err := read.Read(number)
	if err != nil {
		return nil, fmt.Errorf("Xvfb says no display number: %w", err)
	}
	s.Display = ":" + strings.TrimSpace(string(number[:n]))
	settings := filepath.Join(folder, "jwmrc")
	// No tray, so that the screen is the window's.
	const config = `<?xml version="1.0"?><JWM><FocusModel>click</FocusModel><Key mask="A" key="F4">close</Key></JWM>`
	if err := os.WriteFile(settings, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := s.run(exec.Command("jwm", "-display", s.Display, "-f", settings)); err != nil {
		return nil, err
	}
	// What desktop environments set where a logical unit is not a pixel.
	scale := exec.Command("xrdb", "-nocpp", "-merge", "-")
	scale.Env = append(os.Environ(), "DISPLAY="+s.Display)
	scale.Stdin = strings.NewReader(fmt.Sprintf("Xft.dpi: %d\n", dpi))
	if out, err := scale.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("xrdb: %w: %s", err, out)
	}
	return s, nil
}

// run starts a program that Stop ends.
func (s *Screen) run(cmd *exec.Cmd) error {
	cmd.Env = append(os.Environ(), "DISPLAY="+s.Display)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.stop = append(s.stop, func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return nil
}

// Stop ends what Start started.
func (s *Screen) Stop() {
	for i := len(s.stop) - 1; i >= 0; i-- {
		s.stop[i]()
	}
	s.stop = nil
}

// Do runs xdotool with the arguments and returns what it prints.
func (s *Screen) Do(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "xdotool", args...)
	cmd.Env = append(os.Environ(), "DISPLAY="+s.Display)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("xdotool %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Find waits for a window whose title matches and returns its number, for Do. xdotool's own waiting fails when another window
// goes away meanwhile.
func (s *Screen) Find(title string, most time.Duration) (id string, err error) {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if id, err = s.Do("search", "--onlyvisible", "--name", title); err == nil && id != "" {
			id, _, _ = strings.Cut(id, "\n")
			return id, nil
		}
	}
	return "", fmt.Errorf("no window %q: %w", title, err)
}

// Picture is what the screen shows.
func (s *Screen) Picture() (*image.RGBA, error) {
	f, err := os.Open(filepath.Join(s.folder, "Xvfb_screen0"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return decodeXWD(data)
}

// Window is what the screen shows of the window with the given title, which has width × height pixels inside its frame. The
// pointer is left in the screen's lower right corner: an X server without hardware draws it into the picture.
func (s *Screen) Window(title string, width, height int) (*image.RGBA, error) {
	out, err := s.Do("search", "--onlyvisible", "--name", title, "mousemove", "--window", "%1", "0", "0", "getmouselocation",
		"mousemove", "99999", "99999")
	if err != nil {
		return nil, err
	}
	var x, y int
	if _, err := fmt.Sscanf(out, "x:%d y:%d", &x, &y); err != nil {
		return nil, fmt.Errorf("xdotool says %q: %w", out, err)
	}
	time.Sleep(150 * time.Millisecond) // what was presented last may still be on its way
	img, err := s.Picture()
	if err != nil {
		return nil, err
	}
	return img.SubImage(image.Rect(x, y, x+width, y+height)).(*image.RGBA), nil
}

// decodeXWD reads an X window dump of 32 bits a pixel in which red is the third byte, as Xvfb writes at depth 24.
func decodeXWD(data []byte) (*image.RGBA, error) {
	const words = 25
	if len(data) < 4*words {
		return nil, errors.New("xwd: no header")
	}
	field := func(i int) int { return int(binary.BigEndian.Uint32(data[4*i:])) }
	header, width, height, bits, stride, colors := field(0), field(4), field(5), field(11), field(12), field(19)
	if field(1) != 7 || bits != 32 || field(14) != 0xff0000 || field(7) != 0 {
		return nil, fmt.Errorf("xwd: version %d, %d bits a pixel, red mask %#x: not what is read here", field(1), bits, field(14))
	}
	pixels := data[min(header+12*colors, len(data)):]
	if len(pixels) < stride*height || stride < 4*width {
		return nil, errors.New("xwd: too short")
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			p := pixels[y*stride+4*x:]
			img.Pix[img.PixOffset(x, y)+0] = p[2]
			img.Pix[img.PixOffset(x, y)+1] = p[1]
			img.Pix[img.PixOffset(x, y)+2] = p[0]
			img.Pix[img.PixOffset(x, y)+3] = 0xff
		}
	}
	return img, nil
}

// Different is the share of pixels of two pictures in which some channel differs by more than most levels; 1 where the sizes
// differ.
func Different(a, b *image.RGBA, most int) float64 {
	if a.Rect.Size() != b.Rect.Size() || a.Rect.Empty() {
		return 1
	}
	count := 0
	for y := range a.Rect.Dy() {
		rowA, rowB := a.Pix[y*a.Stride:], b.Pix[y*b.Stride:]
		for x := range a.Rect.Dx() {
			for channel := range 3 {
				d := int(rowA[4*x+channel]) - int(rowB[4*x+channel])
				if d > most || d < -most {
					count++
					break
				}
			}
		}
	}
	return float64(count) / float64(a.Rect.Dx()*a.Rect.Dy())
}
