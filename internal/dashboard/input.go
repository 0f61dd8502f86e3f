package dashboard

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/vkmoe/vkmoe/internal/canvas"
)

// A command is a key with what it does, and its label in the row of keys.
type command struct {
	keys  []string // names as Key takes them; the first is shown
	shown string
	label func(s *Snapshot) string
	do    func(d *Dashboard) Action
}

func named(text string) func(*Snapshot) string { return func(*Snapshot) string { return text } }

// training leaves a label out where a checkpoint is read.
func training(text string) func(*Snapshot) string {
	return func(s *Snapshot) string {
		if s.State == Reading {
			return ""
		}
		return text
	}
}

func simple(kind Kind) func(*Dashboard) Action {
	return func(*Dashboard) Action { return Action{Kind: kind} }
}

// commands lists everything that keys do, in the order in which it is shown. It is a function because the commands refer to it.
func commands() []command {
	return []command{
		{[]string{"space"}, "Space", func(s *Snapshot) string {
			switch s.State {
			case Reading:
				return ""
			case Paused:
				return "go on"
			case Finished:
				return "train on"
			}
			return "pause"
		}, simple(Pause)},
		{[]string{"s"}, "S", training("one step"), simple(Step)},
		{[]string{"-"}, "−", training("fewer experts"), func(d *Dashboard) Action { return d.setK(-1) }},
		{[]string{"+", "="}, "+", training("more experts (k)"), func(d *Dashboard) Action { return d.setK(1) }},
		{[]string{"d"}, "D", func(s *Snapshot) string {
			switch {
			case s.State == Reading:
				return ""
			case s.Dense:
				return "experts"
			}
			return "dense"
		}, simple(ToggleDense)},
		{[]string{"["}, "[", training("slower"), func(d *Dashboard) Action { return d.setSpeed(-25) }},
		{[]string{"]"}, "]", training("faster"), func(d *Dashboard) Action { return d.setSpeed(25) }},
		{[]string{"t"}, "T", training("dtype"), simple(NextDType)},
		{[]string{"g"}, "G", training("device"), simple(NextDevice)},
		{[]string{"down", "tab"}, "↑↓", named("layer"), func(d *Dashboard) Action { return d.choose(1, 0) }},
		{[]string{"right"}, "←→", named("choice"), func(d *Dashboard) Action { return d.choose(0, 1) }},
		{[]string{"p", "enter"}, "P", named("prompt"), func(d *Dashboard) Action { d.typing = true; return Action{} }},
		{[]string{"ctrl+s"}, "Ctrl S", training("save"), simple(Save)},
		{[]string{"ctrl+o", "l"}, "L", training("load"), simple(Load)},
		{[]string{"c", "ctrl+c"}, "C", named("copy report"), simple(Report)},
		{[]string{"q", "escape", "ctrl+q"}, "Q", named("quit"), simple(Quit)},
		{[]string{"up"}, "", named(""), func(d *Dashboard) Action { return d.choose(-1, 0) }},
		{[]string{"left"}, "", named(""), func(d *Dashboard) Action { return d.choose(0, -1) }},
	}
}

func (d *Dashboard) setK(by int) Action {
	k := d.last.K + by
	if d.last.State == Reading || k < 1 || k > d.last.Experts {
		return Action{}
	}
	return Action{Kind: SetK, N: k}
}

func (d *Dashboard) setSpeed(by int) Action {
	return Action{Kind: SetSpeed, N: min(max(d.last.Speed+by, 5), 100)}
}

// choose moves the choice of router and slot.
func (d *Dashboard) choose(router, slot int) Action {
	if n := len(d.last.Routers); n > 0 {
		d.Router = (d.Router + router + n) % n
	}
	if k := d.slots(); k > 0 {
		d.Slot = (d.Slot + slot + k) % k
	}
	return Action{}
}

// slots is how many choices the chosen router makes for a token.
func (d *Dashboard) slots() int {
	if d.Router < 0 || d.Router >= len(d.last.Routers) {
		return 0
	}
	return d.last.Routers[d.Router].K
}

// clamp keeps the choice within what the snapshot has.
func (d *Dashboard) clamp() {
	d.Router = max(0, min(d.Router, len(d.last.Routers)-1))
	d.Slot = max(0, min(d.Slot, d.slots()-1))
}

// Key takes a key by its name: a character in lower case, or "space", "enter", "escape", "backspace", "tab", "up", "down",
// "left", "right"; after "ctrl+" with that. It returns what a session or the caller is to do.
func (d *Dashboard) Key(name string) Action {
	if d.typing {
		return d.editKey(name)
	}
	if len(name) == 1 && name[0] >= '1' && name[0] <= '9' {
		return d.setK(int(name[0]-'0') - d.last.K)
	}
	for _, c := range commands() {
		for _, key := range c.keys {
			if key == name {
				a := c.do(d)
				if r := []rune(name); d.typing && len(r) == 1 {
					d.skip = r[0]
				}
				return a
			}
		}
	}
	return Action{}
}

// editKey is Key while a prompt is typed.
func (d *Dashboard) editKey(name string) Action {
	switch name {
	case "escape":
		d.typing, d.prompt = false, nil
	case "backspace":
		d.prompt = d.prompt[:max(0, len(d.prompt)-1)]
	case "enter":
		text := string(d.prompt)
		d.typing, d.prompt = false, nil
		if text != "" {
			return Action{Kind: Write, Text: text}
		}
	}
	return Action{}
}

// mostPrompt is how many characters a prompt may have.
const mostPrompt = 200

// Type takes a typed character, which belongs to the prompt or is ignored.
func (d *Dashboard) Type(r rune) {
	skip := d.skip
	d.skip = 0
	if !d.typing || r == skip && len(d.prompt) == 0 || !unicode.IsPrint(r) || len(d.prompt) >= mostPrompt {
		return
	}
	d.prompt = append(d.prompt, r)
}

// Typing reports whether a prompt is being typed.
func (d *Dashboard) Typing() bool { return d.typing }

// Move says where the pointer is; a negative place is none.
func (d *Dashboard) Move(x, y float64) { d.pointer = canvas.Point{X: x, Y: y} }

// At returns what a click at a place would do: ok is false where there is nothing to be clicked.
func (d *Dashboard) At(x, y float64) (do func() Action, ok bool) {
	for i := len(d.areas) - 1; i >= 0; i-- {
		if d.areas[i].has(canvas.Point{X: x, Y: y}) {
			return d.areas[i].do, true
		}
	}
	return nil, false
}

// Click does what is at a place, and returns what a session or the caller is to do.
func (d *Dashboard) Click(x, y float64) Action {
	if do, ok := d.At(x, y); ok {
		return do()
	}
	return Action{}
}

// Scroll chooses another router, as a wheel turned by dy does.
func (d *Dashboard) Scroll(dy float64) {
	switch {
	case dy > 0:
		d.choose(-1, 0)
	case dy < 0:
		d.choose(1, 0)
	}
}

// messageTime is how long a message is shown.
const messageTime = 5 * time.Second

// Message shows a line for a few seconds.
func (d *Dashboard) Message(text string) { d.message, d.until = text, time.Now().Add(messageTime) }

// keyPlace is where a key with its label is drawn.
type keyPlace struct {
	command
	rect
	text string
}

// layKeys lays the row of keys out from the origin, in as many rows as it takes.
func (d *Dashboard) layKeys(c *canvas.Canvas, width float64) (list []keyPlace, height float64) {
	x, y := 0.0, 0.0
	for _, cmd := range commands() {
		text := cmd.label(d.last)
		if text == "" {
			continue
		}
		w := c.Measure(cmd.shown, headingFont) + c.Measure(text, textFont) + 22
		if x > 0 && x+w > width {
			x, y = 0, y+footerRow
		}
		list = append(list, keyPlace{cmd, rect{x, y, w, footerRow - 3}, text})
		x += w + 5
	}
	return list, y + footerRow
}

func (d *Dashboard) footerHeight(c *canvas.Canvas, width float64) float64 {
	_, h := d.layKeys(c, width)
	return h
}

// drawKeys draws the keys and makes them buttons.
func (d *Dashboard) drawKeys(c *canvas.Canvas, s *Snapshot, r rect) {
	list, _ := d.layKeys(c, r.w)
	for _, k := range list {
		at := rect{r.x + k.x, r.y + k.y, k.w, k.h}
		back := paper
		if at.has(d.pointer) {
			back = canvas.RGB(0xdbeafe)
		}
		c.Rect(at.x, at.y, at.w, at.h, back)
		c.Frame(at.x, at.y, at.w, at.h, 1, hairline)
		length := c.Text(at.x+7, at.y+15, k.shown, headingFont, canvas.Left, accent)
		c.Text(at.x+length+13, at.y+15, k.text, textFont, canvas.Left, ink)
		d.areas = append(d.areas, area{at, func() Action { return k.do(d) }})
	}
}

// drawWriting draws the prompt and what the model made of it.
func (d *Dashboard) drawWriting(c *canvas.Canvas, s *Snapshot, r rect) {
	d.areas = append(d.areas, area{r, func() Action { d.typing = true; return Action{} }})
	switch {
	case d.typing:
		c.Rect(r.x, r.y, r.w, 20, canvas.RGB(0xdbeafe))
		shown := tail(c, string(d.prompt), r.w-300)
		length := c.Text(r.x+6, r.y+14, shown, monoFont, canvas.Left, ink)
		c.Rect(r.x+7+length, r.y+3, 1.5, 14, accent)
		c.Text(r.x+r.w-6, r.y+14, "Enter: write   Esc: leave", smallFont, canvas.Right, soft)
		_, r = r.cut(26)
	case s.Prompt == "":
		c.Text(r.x, r.y+14, "Nothing yet: press P, type a beginning and let the model go on.", textFont, canvas.Left, soft)
		return
	}
	if len(s.Earlier) > 0 && r.w >= wideWidth {
		left := r.w * 0.62
		d.drawEarlier(c, s, rect{r.x + left + 16, r.y, r.w - left - 16, r.h})
		r.w = left
	}
	advance := c.Measure("m", monoFont)
	wide := max(int(r.w/advance), 1)
	column, row := 0, 0
	put := func(text string, color canvas.Color) {
		for _, ch := range strings.ReplaceAll(text, "\t", " ") {
			if column == wide {
				column, row = 0, row+1
			}
			if float64(row)*16+12 > r.h {
				return
			}
			shown, look := ch, color
			if ch == '\n' { // its place is told, but no line is spent on it
				shown, look = '¶', color.Fade(0.35)
			}
			c.Text(r.x+float64(column)*advance, r.y+12+float64(row)*16, string(shown), monoFont, canvas.Left, look)
			column++
		}
	}
	put(s.Prompt, accent)
	put(s.Written, ink)
	if s.State == Writing {
		put("▌", accent)
	}
}

// drawEarlier draws what the model wrote before, the newest at the foot.
func (d *Dashboard) drawEarlier(c *canvas.Canvas, s *Snapshot, r rect) {
	c.Text(r.x, r.y-8, "before", smallFont, canvas.Left, soft)
	shown := s.Earlier[max(0, len(s.Earlier)-int(r.h/16)):]
	for i, e := range shown {
		y := r.y + 12 + float64(i)*16
		name := c.Text(r.x, y, "step "+thousands(e.Step), smallFont, canvas.Left, faint)
		text := strings.Join(strings.Fields(e.Prompt+e.Written), " ")
		c.Text(r.x+math.Max(name, 46)+8, y, c.Fit(text, canvas.Font{Style: canvas.Mono, Size: 11}, r.w-math.Max(name, 46)-8),
			canvas.Font{Style: canvas.Mono, Size: 11}, canvas.Left, soft)
	}
}

// tail is the end of a line that fits a length.
func tail(c *canvas.Canvas, text string, length float64) string {
	runes := []rune(text)
	for len(runes) > 0 && c.Measure(string(runes), monoFont) > length {
		runes = runes[1:]
	}
	return string(runes)
}

// describeRouter names a router as a person counts.
func describeRouter(r Router) string { return fmt.Sprintf("layer %d, %s", r.Layer+1, r.Block) }
