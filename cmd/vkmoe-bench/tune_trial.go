package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// The clocks of a device under load change by a fifth within seconds. So candidates are timed in turn, in spells of a few
// milliseconds without a pause, beside a control, the present answer, that is timed again after every few: what counts is the time
// as a share of the control's next to it, and of the best candidates the median share of several rounds.
const (
	tuneStart    = 100 * time.Millisecond // before a trial: the device had nothing to do while the host made it
	tuneWarm     = 3 * time.Millisecond   // before a spell, for caches; clocks stay up
	tuneSpell    = 12 * time.Millisecond
	tuneBeside   = 4    // candidates between two spells of the control
	tuneRounds   = 2    // of all candidates
	tuneFinals   = 5    // rounds more of the finalists, each beside a control of its own
	tuneFinalist = 4    // at most
	tuneClose    = 1.06 // of the best candidate's time: what is slower is no finalist
	tuneFar      = 1.25 // what is slower after one round is not timed again
)

// tunedLayers keeps the layers of one dtype and format, so that trials with other numbers of tokens share the weights.
type tunedLayers struct {
	dtype   vk.DType
	weights moe.WeightFormat
	made    map[string]*linear
}

func (c *tunedLayers) close() (err error) {
	for _, l := range c.made {
		err = errors.Join(err, l.close())
	}
	c.made = nil
	return err
}

// of returns the layer of a shape with its weights.
func (c *tunedLayers) of(ctx context.Context, dev *vk.Device, shape benchCase, dtype vk.DType, weights moe.WeightFormat) (*linear, error) {
	if dtype != c.dtype || weights != c.weights {
		if err := c.close(); err != nil {
			return nil, err
		}
		c.dtype, c.weights = dtype, weights
	}
	if l := c.made[shape.layer]; l != nil {
		return l, nil
	}
	shape.t = 1
	l := &linear{bench: newBench(dev, shape, dtype, weights)}
	if err := l.makeLayer(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if c.made == nil {
		c.made = map[string]*linear{}
	}
	c.made[shape.layer] = l
	return l, nil
}

// try times the candidates on a layer, relative to the first. Candidates whose results are wrong end the tuning; those that the
// device refuses take infinitely long.
func (t *tuner) try(ctx context.Context, shape benchCase, step moe.TuningStep, candidates []moe.TuningCandidate) (shares []float64, err error) {
	b := newBench(t.dev, shape, t.dtypeOf(step), step.Weights())
	defer func() { err = errors.Join(err, b.close()) }()
	l := &linear{bench: b, samples: 2}
	var j job = l
	if step == moe.TuneGradients {
		g := &weightGradient{linear{bench: b}}
		l, j = &g.linear, g
	} else {
		made, err := t.layers.of(ctx, t.dev, shape, b.dtype, b.weights)
		if err != nil {
			return nil, err
		}
		l.layer, l.w = made.layer, made.w
	}
	if err := j.prepare(ctx); err != nil {
		return nil, err
	}
	if step != moe.TuneGradients {
		if err := t.compile(ctx, l, candidates); err != nil {
			return nil, err
		}
	}
	recorded := make([]*vk.Recorder, len(candidates))
	for i, c := range candidates {
		var refused *vk.UnsupportedError
		if recorded[i], err = t.record(ctx, l, j, c.Table); errors.As(err, &refused) {
			fmt.Printf("%s %s: %v\n", b.Name(), c.What, err)
			recorded[i] = nil
		} else if err != nil {
			return nil, fmt.Errorf("%s %s: %w", b.Name(), c.What, err)
		}
	}
	shares, control, err := t.race(ctx, recorded)
	if err != nil {
		return nil, err
	}
	t.timed += len(candidates)
	for i, c := range candidates {
		if t.verbose {
			fmt.Printf("    %-14s %10.1f µs %6.3f %s\n", b.Name(), control*shares[i], shares[i], c.What)
		}
	}
	return shares, nil
}

// compile makes the candidates' pipelines, as many at once as there are processors.
func (t *tuner) compile(ctx context.Context, l *linear, candidates []moe.TuningCandidate) error {
	var specs []vk.PipelineSpec
	for _, c := range candidates {
		if err := moe.UseTuning(t.dev, c.Table); err != nil {
			return err
		}
		choice, err := l.layer.Choice(t.dev, l.slots())
		if err != nil {
			return err
		}
		specs = append(specs, choice.Pipeline)
	}
	var refused *vk.UnsupportedError
	if err := t.dev.Compile(ctx, specs); err != nil && !errors.As(err, &refused) {
		return err
	}
	return nil
}

// record records a candidate, runs it and checks the results. The recorders live as long as the job.
func (t *tuner) record(ctx context.Context, l *linear, j job, table *moe.Tuning) (*vk.Recorder, error) {
	if err := moe.UseTuning(t.dev, table); err != nil {
		return nil, err
	}
	if err := l.route(ctx); err != nil { // cut as the table says
		return nil, err
	}
	rec, err := l.bench.record(j, 1)
	if err == nil {
		err = rec.Run(ctx)
	}
	if err == nil {
		_, err = j.check(ctx)
	}
	return rec, err
}

// race times recordings, the first of which is the control, and returns each one's share of the control's time, and that.
func (t *tuner) race(ctx context.Context, recorded []*vk.Recorder) ([]float64, float64, error) {
	if recorded[0] == nil {
		return nil, 0, errors.New("the present answer does not run")
	}
	all := make([][]float64, len(recorded))
	warm := tuneStart
	var controls []float64
	spell := func(i int) (float64, error) {
		µs, err := t.spell(ctx, recorded[i], warm)
		warm = tuneWarm
		return µs, err
	}
	// round times some candidates, so many between two spells of the control.
	round := func(list []int, beside int) error {
		before, err := spell(0)
		if err != nil {
			return err
		}
		controls = append(controls, before)
		for part := range slices.Chunk(list, beside) {
			times := make([]float64, len(part))
			for n, i := range part {
				if times[n], err = spell(i); err != nil {
					return err
				}
			}
			after, err := spell(0)
			if err != nil {
				return err
			}
			for n, i := range part {
				all[i] = append(all[i], 2*times[n]/(before+after))
			}
			before = after
			controls = append(controls, after)
		}
		return nil
	}
	var list []int
	for i := 1; i < len(recorded); i++ {
		if recorded[i] != nil {
			list = append(list, i)
		}
	}
	for range tuneRounds {
		if err := round(list, tuneBeside); err != nil {
			return nil, 0, err
		}
		list = near(list, all)
	}
	for range tuneFinals {
		if err := round(finalists(list, all), 1); err != nil {
			return nil, 0, err
		}
	}
	shares := make([]float64, len(recorded))
	for i, list := range all {
		shares[i] = math.Inf(1)
		if len(list) > 0 {
			shares[i] = quantile(list, 0.5)
		}
	}
	shares[0] = 1
	return shares, quantile(controls, 0.5), nil
}

// near are the candidates that are not far slower than the best or the control.
func near(list []int, all [][]float64) []int {
	least := 1.0
	for _, i := range list {
		least = min(least, all[i][0])
	}
	return slices.DeleteFunc(list, func(i int) bool { return all[i][0] > tuneFar*least })
}

// finalists are the candidates that are close to the best, but for those slower than the control.
func finalists(list []int, all [][]float64) []int {
	slices.SortFunc(list, func(a, b int) int {
		if quantile(all[a], 0.5) < quantile(all[b], 0.5) {
			return -1
		}
		return 1
	})
	var chosen []int
	for _, i := range list[:min(len(list), tuneFinalist)] {
		if share := quantile(all[i], 0.5); share < 1.01 && share < tuneClose*quantile(all[list[0]], 0.5) {
			chosen = append(chosen, i)
		}
	}
	return chosen
}

// spell is the median time of a recording's runs in a spell, after some that do not count.
func (t *tuner) spell(ctx context.Context, rec *vk.Recorder, warm time.Duration) (float64, error) {
	for start := time.Now(); time.Since(start) < warm; {
		if err := rec.Run(ctx); err != nil {
			return 0, err
		}
	}
	var times []float64
	for start := time.Now(); len(times) < min(3, t.reps) || len(times) < t.reps && time.Since(start) < tuneSpell; {
		one, _, err := timeFor(ctx, rec, 1, 1, 0)
		if err != nil {
			return 0, err
		}
		times = append(times, one...)
	}
	return quantile(times, 0.5), nil
}
