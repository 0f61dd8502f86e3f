package session

import (
	"context"
	"math"
	"time"
	"unicode/utf8"

	"github.com/vkmoe/vkmoe/internal/dashboard"
)

// mostTimes is how many steps' GPU times a snapshot shows.
const mostTimes = 60

// history is that of the model on the device.
func (s *Session) history() *history {
	kind := s.v.kind()
	h := s.histories[kind]
	if h == nil {
		h = &history{Curve: dashboard.Curve{Name: kindNames[kind]}}
		s.histories[kind] = h
	}
	return h
}

// step makes one training step and, when it is due, looks at held-out text.
func (s *Session) step(ctx context.Context) error {
	t, size := s.learner.trainer, s.cfg.Sizes
	step := t.Steps() + 1
	if s.cfg.fail != nil {
		if err := s.cfg.fail(step); err != nil {
			return err
		}
	}
	ids, targets, err := s.text.Batch(step, size.Batch, size.Length)
	if err != nil {
		return err
	}
	begin := time.Now()
	stats, err := t.Step(ctx, ids, targets)
	if err != nil {
		return err
	}
	if err := s.time(step, time.Since(begin).Seconds()); err != nil {
		return err
	}
	if s.loads, err = s.learner.loads(ctx); err != nil {
		return err
	}
	h := s.history()
	h.Curve.Train = append(h.Curve.Train, dashboard.Point{Step: step, Value: stats.Loss})
	h.Spread = append(h.Spread, spread(step, s.loads))
	if step%size.Every == 0 || s.finished() || s.once {
		return s.look(ctx)
	}
	return nil
}

// time takes the times of a step. A model's first step is left out: its kernels were compiled in it.
func (s *Session) time(step int, seconds float64) error {
	if !s.warm {
		s.warm = true
		return nil
	}
	if s.seconds == 0 {
		s.seconds = seconds
	}
	s.seconds += (seconds - s.seconds) / 4
	timings, err := s.learner.trainer.Timings()
	if err != nil {
		return err
	}
	if st, ok := stepTime(step, timings); ok {
		s.times = append(s.times, st)
		s.times = s.times[max(0, len(s.times)-mostTimes):]
	}
	return nil
}

// look takes the loss on held-out text and the choices for it, as the model is now.
func (s *Session) look(ctx context.Context) error {
	loss, routers, err := s.learner.look(ctx, s.heldOut)
	if err != nil {
		return err
	}
	h, step := s.history(), s.learner.trainer.Steps()
	if n := len(h.Curve.HeldOut); n > 0 && h.Curve.HeldOut[n-1].Step >= step {
		h.Curve.HeldOut = append([]dashboard.Point{}, h.Curve.HeldOut[:n-1]...) // a copy: snapshots hold the old one
	}
	h.Curve.HeldOut = append(h.Curve.HeldOut, dashboard.Point{Step: step, Value: loss})
	s.routers = routers
	return nil
}

// publish makes a snapshot of the run.
func (s *Session) publish() {
	s.serial++
	a, memory := s.dev.Adapter(), s.dev.Memory()
	next := &dashboard.Snapshot{
		Serial: s.serial, State: s.state(), Notice: s.notice,
		Device: a.Name, Driver: a.DriverName + " " + a.DriverInfo, DType: s.v.dtype.String(), TextName: s.cfg.TextName,
		Speed: s.speed, Prompt: s.prompt, Written: s.written, Text: s.pieces, Answers: s.answers, Earlier: s.earlier,
		Memory: dashboard.Memory{Live: memory.LiveBytes, Peak: memory.PeakBytes},
	}
	if s.reader != nil {
		s.reader.describe(next)
	} else {
		s.describe(next)
	}
	if s.writing {
		next.Answers--
	}
	s.snapshot.Store(next)
}

func (s *Session) state() dashboard.State {
	switch {
	case s.writing:
		return dashboard.Writing
	case s.reader != nil:
		return dashboard.Reading
	case s.finished():
		return dashboard.Finished
	case s.paused:
		return dashboard.Paused
	}
	return dashboard.Training
}

// describe fills in what training has.
func (s *Session) describe(next *dashboard.Snapshot) {
	h := s.history()
	next.Model, next.Dense, next.K = s.cfg.describe(s.v), s.v.dense, s.v.k
	next.Experts, next.Layers = s.cfg.Sizes.Experts, s.cfg.Sizes.Layers
	next.Step, next.Steps = s.learner.trainer.Steps(), s.cfg.Steps
	if s.unbounded {
		next.Steps = 0
	}
	next.Curves, next.Marks, next.Spread = []dashboard.Curve{h.Curve}, h.Marks, h.Spread
	for kind, other := range s.histories {
		if kind != s.v.kind() {
			next.Curves = append(next.Curves, other.Curve)
		}
	}
	if s.seconds > 0 {
		next.TokensPerSecond = float64(s.learner.trainer.Config.Tokens()) / s.seconds
		next.FLOPS = s.cfg.stepFLOPs(s.v) / s.seconds
	}
	next.Times = s.times
	next.Memory.Extra = s.cfg.paddingBytes(s.v, s.loads)
	next.Routers = make([]dashboard.Router, len(s.routers))
	for i, r := range s.routers {
		if r.Load = make([]int, s.cfg.Sizes.Experts); s.loads != nil {
			r.Load = s.loads[i]
		}
		next.Routers[i] = r
	}
}

// pieces are bytes as what is shown of each: a character at its first byte, and nothing at those that continue it.
func pieces(text []byte) []string {
	list := make([]string, 0, len(text))
	for len(list) < len(text) {
		r, size := utf8.DecodeRune(text[len(list):])
		list = append(list, string(r))
		for range size - 1 {
			list = append(list, "")
		}
	}
	return list
}

// lastLoss is the newest loss of a list, NaN without.
func lastLoss(points []dashboard.Point) float64 {
	if len(points) == 0 {
		return math.NaN()
	}
	return points[len(points)-1].Value
}
