// Package session runs a training run that can be watched and steered while it goes on: a byte-level language model with a
// mixture of attention and a sparse MLP learns from a text on a Vulkan device, or a checkpoint is read. Commands go in through
// a queue, snapshots for a dashboard come out.
package session

import (
	"bytes"
	"fmt"
	"time"

	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// A Config describes a session. The zero value of a field means what its comment says.
type Config struct {
	Device   string // see vk.Options
	DType    vk.DType
	Text     []byte
	TextName string
	Steps    int // of the whole run; 0 for no end
	K        int // experts per token; 2
	Dense    bool
	Seed     uint64 // of weights, batches and what is written

	Model  string // folder of a checkpoint to read instead of training
	Resume string // file of a run to go on from
	File   string // where Save writes and Load reads; "" for nowhere
	// Autosave is how often the run is saved to File while it trains; 0 for never but at the end.
	Autosave time.Duration

	Sizes Sizes
	// Written is how many tokens the model writes after a prompt; 200.
	Written int

	// fail is asked before each step; tests let a device be lost by it.
	fail func(step int) error
}

// Sizes are those of the model and its batches. The zero value means Sizes that learn in minutes on a CPU.
type Sizes struct {
	Layers, Width, Experts   int
	Heads, HeadWidth, Hidden int // of one expert
	Batch, Length            int // sequences of a step and their bytes
	Every                    int // steps between two looks at held-out text
	Rate                     float64
}

// DefaultSizes learn words in two minutes on two cores.
var DefaultSizes = Sizes{Layers: 3, Width: 96, Experts: 8, Heads: 1, HeadWidth: 32, Hidden: 96, Batch: 4, Length: 128, Every: 10,
	Rate: 4e-3}

// mostPositions is the longest text that the model can look back on, prompt and all.
const mostPositions = 512

// A ConfigError is a field of a Config that makes no sense.
type ConfigError struct{ Field, Want, Got string }

func (e *ConfigError) Error() string {
	return fmt.Sprintf("session: %s is %s, want %s", e.Field, e.Got, e.Want)
}

func (c Config) normalized() (Config, error) {
	bad := func(field, want string, got any) (Config, error) {
		return c, &ConfigError{field, want, fmt.Sprint(got)}
	}
	if c.Sizes == (Sizes{}) {
		c.Sizes = DefaultSizes
	}
	if c.K == 0 {
		c.K = min(2, c.Sizes.Experts)
	}
	if c.Written == 0 {
		c.Written = 200
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	s := c.Sizes
	switch {
	case c.Steps < 0:
		return bad("Steps", "0 or more", c.Steps)
	case c.K < 1 || c.K > s.Experts:
		return bad("K", fmt.Sprint("1 to ", s.Experts), c.K)
	case c.Written < 1 || c.Written >= mostPositions:
		return bad("Written", fmt.Sprint("1 to ", mostPositions-1), c.Written)
	case s.Batch < 1 || s.Length < 1 || s.Every < 1 || s.Length > mostPositions:
		return bad("Sizes", fmt.Sprint("a batch, a length up to ", mostPositions, " and a period"), s)
	case c.Model == "" && len(c.Text)-c.cut() < s.Batch*s.Length+2:
		return bad("Text", fmt.Sprintf("about %d bytes at least", heldOutShare*(s.Batch*s.Length+2)), fmt.Sprint(len(c.Text), " bytes"))
	}
	return c, nil
}

// heldOutShare: the last one in so many bytes of the text is held out.
const heldOutShare = 10

// cut is where the held-out text begins: at a paragraph, where there is one soon.
func (c Config) cut() int {
	at := len(c.Text) - len(c.Text)/heldOutShare
	if i := bytes.Index(c.Text[at:min(at+len(c.Text)/heldOutShare/8, len(c.Text))], []byte("\n\n")); i >= 0 {
		return at + i + 2
	}
	return at
}

// A variant is what can be changed while a model lives: its parameters stay.
type variant struct {
	k     int
	dense bool
	dtype vk.DType
}

// kind names the model that a variant's parameters belong to: that with experts and that without are two.
func (v variant) kind() string {
	if v.dense {
		return "dense"
	}
	return "moe"
}

// decoder describes the model: JetMoE's block, a mixture of attention and one of MLP experts, at bytes. The dense MLP is as
// wide as k experts together, k being the session's first.
func (c Config) decoder(v variant) model.DecoderConfig {
	s := c.Sizes
	layer := model.LayerConfig{
		Mixture: &attention.MixtureConfig{Experts: s.Experts, TopK: v.k, HeadsPerExpert: s.Heads, HeadWidth: s.HeadWidth,
			Mode: moe.TopKSoftmax, OutputBias: true, Causal: true},
		RoPE: &attention.RoPEConfig{Width: s.HeadWidth, Base: 10_000},
	}
	if v.dense {
		layer.Dense = &model.DenseConfig{Hidden: c.K * s.Hidden, Activation: moe.SwiGLU}
	} else {
		layer.MLP = &moe.MLPConfig{Experts: s.Experts, TopK: v.k, Hidden: s.Hidden, Activation: moe.SwiGLU, Mode: moe.TopKSoftmax,
			OutputBias: true}
	}
	d := model.DecoderConfig{Type: "jetmoe", Vocabulary: 256, Width: s.Width, Epsilon: 1e-6, Tied: true, Positions: mostPositions,
		DType: v.dtype}
	for range s.Layers {
		d.Layers = append(d.Layers, layer)
	}
	return d
}

// describe is the model in a line.
func (c Config) describe(v variant) string {
	s := c.Sizes
	if v.dense {
		return fmt.Sprintf("%d layers, width %d, mixture of attention, dense MLP of %d", s.Layers, s.Width, c.K*s.Hidden)
	}
	return fmt.Sprintf("%d layers, width %d, %d experts of %d in attention and MLP", s.Layers, s.Width, s.Experts, s.Hidden)
}
