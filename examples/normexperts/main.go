// Command normexperts trains a mixture of experts that have a normalization between their two layers: an expert module that
// vkmoe does not have, built from the public packages vk and moe and three kernels of its own. doc/extending.md explains
// how.
//
//	go run ./examples/normexperts
//
// It learns to follow a teacher of the same kind from 256 inputs. The whole step (router, forward, loss, backward, update)
// is recorded once.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"math/rand"

	"github.com/vkmoe/vkmoe/examples/train"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// config is the layer, the student's and the teacher's.
var config = Config{Experts: 4, TopK: 2, Width: 16, Hidden: 24}

const (
	tokens = 256
	steps  = 250
	rate   = 0.02
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	dev, err := vk.Open(vk.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	student, trainer, err := newTask(ctx, dev, tokens, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trainer.Close(), student.Close()) }()
	return trainer.Train(ctx, steps, func(i int, loss float32) {
		if i%25 == 0 || i == steps-1 {
			fmt.Printf("step %3d  loss %.5f\n", i, loss)
		}
	})
}

// newTask makes a student with random weights and what it is to learn.
func newTask(ctx context.Context, dev *vk.Device, tokens int, seed int64) (*NormExperts, *train.Trainer, error) {
	random := rand.New(rand.NewSource(seed))
	teacher := newTeacher(random, config)
	x := train.Normal(random, tokens*config.Width, 1)
	m, err := NewNormExperts(ctx, dev, config)
	if err != nil {
		return nil, nil, err
	}
	start := newTeacher(random, config)
	err = errors.Join(
		moe.UploadBank(ctx, m.Router.Weight, start.router),
		moe.UploadBank(ctx, m.Up.Weight, start.up),
		moe.UploadBank(ctx, m.Down.Weight, start.down),
	)
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	trainer, err := train.NewTrainer(ctx, dev, m, train.AdamConfig{Rate: rate}, tokens, x, teacher.forward(x))
	if err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, trainer, nil
}

// A teacher computes on the host what the student is to learn; its weights are laid out as those of NormExperts.
type teacher struct {
	Config
	router, up, down, scale []float32
}

func newTeacher(random *rand.Rand, c Config) *teacher {
	t := &teacher{
		Config: c,
		router: train.Normal(random, c.Experts*c.Width, 1/math.Sqrt(float64(c.Width))),
		up:     train.Normal(random, c.Experts*c.Hidden*c.Width, 1/math.Sqrt(float64(c.Width))),
		down:   train.Normal(random, c.Experts*c.Width*c.Hidden, 1/math.Sqrt(float64(c.Hidden))),
		scale:  train.Normal(random, c.Experts*c.Hidden, 0.3),
	}
	for i := range t.scale {
		t.scale[i] += 1
	}
	return t
}

// forward is y for the rows of x.
func (t *teacher) forward(x []float32) []float32 {
	var y []float32
	size := t.Hidden * t.Width
	for ; len(x) > 0; x = x[t.Width:] {
		row := make([]float32, t.Width)
		experts, gates := train.Choose(train.Multiply(t.router, x[:t.Width]), t.TopK)
		for j, e := range experts {
			h := t.norm(train.Multiply(t.up[e*size:(e+1)*size], x[:t.Width]), e)
			for i, v := range train.Multiply(t.down[e*size:(e+1)*size], h) {
				row[i] += gates[j] * v
			}
		}
		y = append(y, row...)
	}
	return y
}

// norm is silu(scale[e] ⊙ rmsnorm(z)).
func (t *teacher) norm(z []float32, e int) []float32 {
	var sum float64
	for _, v := range z {
		sum += float64(v) * float64(v)
	}
	inverse := 1 / math.Sqrt(sum/float64(len(z))+epsilon)
	h := make([]float32, len(z))
	for i, v := range z {
		u := float64(t.scale[e*len(z)+i]) * float64(v) * inverse
		h[i] = float32(u / (1 + math.Exp(-u)))
	}
	return h
}
