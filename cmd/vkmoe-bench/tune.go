package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"time"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// tuneWarm is how long a candidate works before it is timed. All have been compiled by then, so that the device is at work without
// a pause and its clocks stay up.
const tuneWarm = 20 * time.Millisecond

// tuneRounds is how often all candidates are timed in turn; the least time of each counts.
const tuneRounds = 2

// tuneShapes are the layers that candidates are measured on.
func tuneShapes(dev *vk.Device) []benchCase {
	if dev.Adapter().Type == vk.Software {
		return []benchCase{{"software", 8, 2, 512, 1024, 0, moe.GELU}}
	}
	return []benchCase{{"paper", 32, 4, 4096, 2048, 0, moe.GELU}, {"qwen3", 128, 8, 2048, 768, 0, moe.SwiGLU}}
}

// A tuner measures candidates.
type tuner struct {
	dev     *vk.Device
	shapes  []benchCase // without tokens; a candidate's figure is the product of its times on them
	reps    int
	most    int // candidates per question, 0 for all
	verbose bool
	table   *moe.Tuning
}

// runTune is the subcommand tune: for every band of rows per expert it measures the candidates that fit the device, keeps the
// fastest, and writes the table where the library finds it.
func runTune(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("vkmoe-bench tune", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	reps := flags.Int("reps", 10, "timed runs of a candidate")
	bands := flags.Int("bands", 0, "tune only so many bands, from the most rows down; 0 for all")
	most := flags.Int("candidates", 0, "measure at most so many candidates per question; 0 for all")
	dry := flags.Bool("dry", false, "write nothing")
	verbose := flags.Bool("v", false, "print every candidate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dev, err := openTimed(*device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	t := &tuner{dev: dev, shapes: tuneShapes(dev), reps: *reps, most: *most, verbose: *verbose, table: moe.BuiltInTuning(dev)}
	rows := t.table.BandRows()
	if *bands > 0 {
		rows = rows[:min(*bands, len(rows))]
	}
	if err := t.run(ctx, rows); err != nil {
		return err
	}
	if *dry {
		return nil
	}
	path, err := t.table.Save(dev)
	if err == nil {
		fmt.Println("written to", path)
	}
	return err
}

// run answers every question about the bands.
func (t *tuner) run(ctx context.Context, rows []int) error {
	for band, least := range rows {
		mean := 4 * least // of the top band, which has no end
		if band > 0 {
			mean = (least + rows[band-1]) / 2
		}
		for step := moe.TuneRows; step <= moe.TuneVectors; step++ {
			if err := t.ask(ctx, band, step, max(1, mean)); err != nil {
				return err
			}
		}
	}
	return t.ask(ctx, 0, moe.TuneGradients, 4*max(1, rows[0]))
}

// dtypeOf is what layers are of that a question is about: the portable path is for f32 on devices with matrices.
func (t *tuner) dtypeOf(step moe.TuningStep) vk.DType {
	for _, dtype := range []vk.DType{vk.BF16, vk.F16} {
		if _, ok := newMatrixPeak(t.dev, dtype, 1, 1); ok && step != moe.TunePortable {
			return dtype
		}
	}
	return vk.F32
}

// ask measures the candidates of a question and keeps the fastest.
func (t *tuner) ask(ctx context.Context, band int, step moe.TuningStep, mean int) (err error) {
	candidates := t.table.Candidates(t.dev, band, step)
	if len(candidates) < 2 {
		return nil
	}
	if t.most > 0 {
		candidates = candidates[:min(t.most, len(candidates))]
	}
	scores := make([]float64, len(candidates)) // sums of logarithms
	for _, shape := range t.shapes {
		shape.t = max(1, mean*shape.experts/shape.k)
		if err := t.score(ctx, shape, step, candidates, scores); err != nil {
			return err
		}
	}
	best := 0
	for i := range candidates {
		if scores[i] < scores[best] {
			best = i
		}
	}
	t.table = candidates[best].Table
	verdict := "kept"
	if best > 0 {
		gain := 1 - math.Exp((scores[best]-scores[0])/float64(len(t.shapes)))
		verdict = fmt.Sprintf("%.1f %% less time than %s", 100*gain, candidates[0].What)
	}
	fmt.Printf("%-17s from %3d rows: %s: %s\n", step, t.table.BandRows()[band], candidates[best].What, verdict)
	return moe.UseTuning(t.dev, t.table)
}

// score adds the logarithm of each candidate's time on a layer. Candidates whose results are wrong or that the device refuses
// are out, with a word.
func (t *tuner) score(ctx context.Context, shape benchCase, step moe.TuningStep, candidates []moe.TuningCandidate, scores []float64) (err error) {
	b := newBench(t.dev, shape, t.dtypeOf(step), moe.WeightsFull)
	l := &linear{bench: b}
	var j job = l
	if step == moe.TuneGradients {
		g := &weightGradient{linear{bench: b}}
		l, j = &g.linear, g
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := j.prepare(ctx); err != nil {
		return err
	}
	recorded := make([]*vk.Recorder, len(candidates))
	for i, c := range candidates {
		var refused *vk.UnsupportedError
		if recorded[i], err = t.record(ctx, l, j, c.Table); errors.As(err, &refused) {
			fmt.Printf("%s %s: %v\n", b.Name(), c.What, err)
			scores[i] = math.Inf(1)
		} else if err != nil {
			return fmt.Errorf("%s %s: %w", b.Name(), c.What, err)
		}
	}
	times, err := t.time(ctx, recorded)
	if err != nil {
		return err
	}
	for i, c := range candidates {
		scores[i] += math.Log(times[i])
		if t.verbose {
			fmt.Printf("    %-14s %10.1f µs %s\n", b.Name(), times[i], c.What)
		}
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

// time returns the least time of each recording, which what a neighbour on the machine costs does not change; infinity for those
// that could not be recorded.
func (t *tuner) time(ctx context.Context, recorded []*vk.Recorder) ([]float64, error) {
	least := make([]float64, len(recorded))
	for i := range least {
		least[i] = math.Inf(1)
	}
	warm := warmUp
	for range tuneRounds {
		for i, rec := range recorded {
			if rec == nil || rec.Err() != nil {
				continue
			}
			times, _, err := timeFor(ctx, rec, 1, t.reps, warm)
			if err != nil {
				return nil, err
			}
			least[i], warm = min(least[i], quantile(times, 0)), tuneWarm
		}
	}
	return least, nil
}
