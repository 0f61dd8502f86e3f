//go:build desktop

package window

import (
	"strings"

	"github.com/go-gl/glfw/v3.3/glfw"
)

// A Kind says what an Event is.
type Kind uint8

// The kinds of events.
const (
	Key     Kind = iota // Name: a key that types nothing, or one with ctrl, alt or super held
	Text                // Rune: a character was typed
	Move                // X, Y: the pointer is there
	Leave               // the pointer left the window
	Press               // X, Y: the left button went down
	Scroll              // Lines: the wheel turned, up is positive
	Redraw              // size, scale or visibility changed, or the window system lost the picture
	Closing             // the user wants the window closed
)

// An Event is something that happened to the window.
type Event struct {
	Kind  Kind
	Name  string  // of a Key in lower case, with modifiers: "enter", "up", "ctrl+v"
	Rune  rune    // of a Text
	X, Y  float64 // logical units from the top left
	Lines float64
}

func (w *Window) add(e Event) { w.events = append(w.events, e) }

// listen makes events of GLFW's callbacks, which run within Wait.
func (w *Window) listen() {
	g := w.w
	g.SetKeyCallback(func(_ *glfw.Window, key glfw.Key, code int, action glfw.Action, mods glfw.ModifierKey) {
		if action == glfw.Release {
			return
		}
		if name := keyEvent(key, code, mods); name != "" {
			w.add(Event{Kind: Key, Name: name})
		}
	})
	g.SetCharCallback(func(_ *glfw.Window, r rune) { w.add(Event{Kind: Text, Rune: r}) })
	g.SetCursorPosCallback(func(_ *glfw.Window, x, y float64) {
		x, y = w.logical(x, y)
		w.add(Event{Kind: Move, X: x, Y: y})
	})
	g.SetCursorEnterCallback(func(_ *glfw.Window, entered bool) {
		if !entered {
			w.add(Event{Kind: Leave})
		}
	})
	g.SetMouseButtonCallback(func(_ *glfw.Window, button glfw.MouseButton, action glfw.Action, _ glfw.ModifierKey) {
		if button == glfw.MouseButtonLeft && action == glfw.Press {
			x, y := w.logical(g.GetCursorPos())
			w.add(Event{Kind: Press, X: x, Y: y})
		}
	})
	g.SetScrollCallback(func(_ *glfw.Window, _, lines float64) { w.add(Event{Kind: Scroll, Lines: lines}) })
	g.SetCloseCallback(func(*glfw.Window) { w.add(Event{Kind: Closing}) })
	redraw := func() { w.add(Event{Kind: Redraw}) }
	g.SetFramebufferSizeCallback(func(*glfw.Window, int, int) { redraw() })
	g.SetContentScaleCallback(func(*glfw.Window, float32, float32) { redraw() })
	g.SetIconifyCallback(func(*glfw.Window, bool) { redraw() })
	g.SetRefreshCallback(func(*glfw.Window) { redraw() })
}

// keyNames are the keys that type nothing.
var keyNames = map[glfw.Key]string{
	glfw.KeyEnter: "enter", glfw.KeyKPEnter: "enter", glfw.KeyEscape: "escape", glfw.KeyBackspace: "backspace",
	glfw.KeyDelete: "delete", glfw.KeyTab: "tab", glfw.KeyUp: "up", glfw.KeyDown: "down", glfw.KeyLeft: "left",
	glfw.KeyRight: "right", glfw.KeyHome: "home", glfw.KeyEnd: "end", glfw.KeyPageUp: "pageup",
	glfw.KeyPageDown: "pagedown", glfw.KeyInsert: "insert",
	glfw.KeyF1: "f1", glfw.KeyF2: "f2", glfw.KeyF3: "f3", glfw.KeyF4: "f4", glfw.KeyF5: "f5", glfw.KeyF6: "f6",
	glfw.KeyF7: "f7", glfw.KeyF8: "f8", glfw.KeyF9: "f9", glfw.KeyF10: "f10", glfw.KeyF11: "f11", glfw.KeyF12: "f12",
}

// keyEvent names a key with its modifiers, or returns "" for one whose character comes as Text.
func keyEvent(key glfw.Key, code int, mods glfw.ModifierKey) string {
	var prefix strings.Builder
	for _, m := range []struct {
		bit  glfw.ModifierKey
		name string
	}{{glfw.ModControl, "ctrl+"}, {glfw.ModAlt, "alt+"}, {glfw.ModSuper, "super+"}} {
		if mods&m.bit != 0 {
			prefix.WriteString(m.name)
		}
	}
	name, typesNothing := keyNames[key]
	if typesNothing {
		if mods&glfw.ModShift != 0 {
			prefix.WriteString("shift+")
		}
		return prefix.String() + name
	}
	if prefix.Len() == 0 {
		return ""
	}
	if name = strings.ToLower(glfw.GetKeyName(key, code)); name == "" { // a modifier by itself, among others
		return ""
	}
	return prefix.String() + name
}
