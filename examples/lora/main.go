// Command lora trains a mixture of LoRA experts on a frozen dense layer: an expert module that vkmoe does not have, built
// from the public packages vk and moe. doc/extending.md explains how.
//
//	go run ./examples/lora
//
// It learns to follow a teacher, the same dense layer with low-rank experts and a router of its own, from 256 inputs. The
// whole step (router, forward, loss, backward, update) is recorded once.
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
var config = Config{Experts: 4, TopK: 2, In: 32, Out: 24, Rank: 4, Alpha: 8}

const (
	tokens = 256
	steps  = 200
	rate   = 0.01
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

// newTask makes a student that starts as the dense layer alone, and what it is to learn.
func newTask(ctx context.Context, dev *vk.Device, tokens int, seed int64) (*Mixture, *train.Trainer, error) {
	random := rand.New(rand.NewSource(seed))
	teacher := newTeacher(random, config)
	x := train.Normal(random, tokens*config.In, 1)
	m, err := NewMixture(dev, config)
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(
		moe.UploadBank(ctx, m.Base.Weight, teacher.base),
		moe.UploadBank(ctx, m.Router.Weight, train.Normal(random, m.Router.Weight.Elements(), 0.1)),
		moe.UploadBank(ctx, m.A.Weight, train.Normal(random, m.A.Weight.Elements(), 1/math.Sqrt(float64(config.In)))),
		moe.UploadBank(ctx, m.B.Weight, make([]float32, m.B.Weight.Elements())),
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

// A teacher computes on the host what the student is to learn; its weights are laid out as a Mixture's.
type teacher struct {
	Config
	base, router, a, b []float32
}

func newTeacher(random *rand.Rand, c Config) *teacher {
	return &teacher{
		Config: c,
		base:   train.Normal(random, c.Out*c.In, 1/math.Sqrt(float64(c.In))),
		router: train.Normal(random, c.Experts*c.In, 1/math.Sqrt(float64(c.In))),
		a:      train.Normal(random, c.Experts*c.Rank*c.In, 1/math.Sqrt(float64(c.In))),
		b:      train.Normal(random, c.Experts*c.Out*c.Rank, 1/math.Sqrt(float64(c.Rank))),
	}
}

// forward is y for the rows of x.
func (t *teacher) forward(x []float32) []float32 {
	var y []float32
	for ; len(x) > 0; x = x[t.In:] {
		row := train.Multiply(t.base, x[:t.In])
		experts, gates := train.Choose(train.Multiply(t.router, x[:t.In]), t.TopK)
		for j, e := range experts {
			low := train.Multiply(t.a[e*t.Rank*t.In:(e+1)*t.Rank*t.In], x[:t.In])
			for i, v := range train.Multiply(t.b[e*t.Out*t.Rank:(e+1)*t.Out*t.Rank], low) {
				row[i] += t.Alpha / float32(t.Rank) * gates[j] * v
			}
		}
		y = append(y, row...)
	}
	return y
}
