package main

import (
	"context"
	"errors"
	"time"

	"github.com/vkmoe/vkmoe/vk"
)

// A pace notices by the time that always the same arithmetic takes whether the device's clocks are down. A GPU that has waited for the
// host raises them late, and in between it looks settled: an H100 once timed a case at half its clocks after 1.5 s of work.
type pace struct {
	rec     *vk.Recorder
	tensors []*vk.Tensor
	least   float64 // µs, the shortest time yet
}

// Clocks of which less than lowClocks is left are down: a power limit leaves an H100 0.88 of them. A case is timed so often at most.
const (
	lowClocks = 0.77
	mostTries = 5
)

func newPace(dev *vk.Device) (p *pace, err error) {
	p = &pace{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	f := fmaPeak{threads: 256, chains: 16, groups: 2048, every: 2048, rounds: 512}
	if dev.Adapter().Type == vk.Software {
		f.groups, f.rounds = 4, 64
	}
	for range 2 {
		t, err := dev.NewTensor(vk.F32, f.threads*f.chains)
		if err != nil {
			return p, err
		}
		p.tensors = append(p.tensors, t)
	}
	if p.rec, err = dev.NewRecorder(); err != nil {
		return p, err
	}
	p.rec.Fill(p.tensors[0], 0)
	return p, f.record(p.rec, p.tensors[0], p.tensors[1], 0.75, 0.3)
}

func (p *pace) close() error {
	var err error
	if p.rec != nil {
		err = p.rec.Close()
	}
	for _, t := range p.tensors {
		err = errors.Join(err, t.Close())
	}
	return err
}

// share is which share of its fastest clocks yet the device has; 1 without a pace.
func (p *pace) share(ctx context.Context) (float64, error) {
	if p == nil {
		return 1, nil
	}
	if err := p.rec.Run(ctx); err != nil {
		return 0, err
	}
	timings, err := p.rec.Timings()
	if err != nil {
		return 0, err
	}
	now := float64(timings[len(timings)-1].Duration) / float64(time.Microsecond)
	if p.least == 0 || now < p.least {
		p.least = now
	}
	return p.least / max(now, p.least), nil
}

// atFullClocks times again while the clocks turn out to have been down, and returns their share if they stayed there, or 0.
func atFullClocks(timing func() error, share func() (float64, error)) (low float64, err error) {
	for range mostTries {
		if err := timing(); err != nil {
			return 0, err
		}
		if low, err = share(); err != nil || low >= lowClocks {
			return 0, err
		}
	}
	return low, nil
}
