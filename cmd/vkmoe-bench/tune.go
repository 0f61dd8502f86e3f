package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// tuneShapes are the layers that candidates are measured on, one of each kind that public models have.
func tuneShapes(dev *vk.Device) []benchCase {
	if dev.Adapter().Type == vk.Software {
		return []benchCase{{"software", 8, 2, 512, 1024, 0, moe.GELU}}
	}
	return []benchCase{{"paper", 32, 4, 4096, 2048, 0, moe.GELU}, {"mixtral", 8, 2, 4096, 14336, 0, moe.SwiGLU},
		{"qwen3", 128, 8, 2048, 768, 0, moe.SwiGLU}, {"olmoe", 64, 8, 2048, 1024, 0, moe.SwiGLU}}
}

// A tuner measures candidates.
type tuner struct {
	dev     *vk.Device
	shapes  []benchCase // without tokens
	reps    int
	most    int       // candidates per question, 0 for all
	end     time.Time // no question begins later; the zero time is never
	verbose bool
	table   *moe.Tuning
	layers  tunedLayers
	timed   int // candidates, each on each layer
}

// runTune is the subcommand tune: for every band of rows per expert it measures the candidates that fit the device, keeps the
// fastest, and writes the table where the library finds it.
func runTune(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("vkmoe-bench tune", flag.ContinueOnError)
	device := flags.String("device", "", "index or part of the name of the device")
	reps := flags.Int("reps", 10, "timed runs of a candidate in a round, at most")
	bands := flags.Int("bands", 0, "tune only so many bands, from the most rows down; 0 for all")
	steps := flags.Int("steps", 0, "ask only the first so many questions; 0 for all")
	most := flags.Int("candidates", 0, "measure at most so many candidates per question; 0 for all")
	limit := flags.Duration("time", 5*time.Minute, "ask nothing more after so long; what was not asked stays as it is built in")
	dry := flags.Bool("dry", false, "write nothing")
	verbose := flags.Bool("v", false, "print every candidate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	start := time.Now()
	dev, err := openTimed(*device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	t := &tuner{dev: dev, shapes: tuneShapes(dev), reps: *reps, most: *most, end: start.Add(*limit), verbose: *verbose,
		table: moe.BuiltInTuning(dev)}
	rows := t.table.BandRows()
	if *bands > 0 {
		rows = rows[:min(*bands, len(rows))]
	}
	asked := moe.TuningSteps
	if *steps > 0 {
		asked = asked[:min(*steps, len(asked))]
	}
	if err := t.run(ctx, rows, asked); err != nil {
		return err
	}
	fmt.Printf("%d candidates on %d layers in %v\n", t.timed, len(t.shapes), time.Since(start).Round(time.Second))
	if *dry {
		return nil
	}
	path, err := t.table.Save(dev)
	if err == nil {
		fmt.Println("written to", path)
	}
	return err
}

// run answers questions about the bands of so many least rows.
func (t *tuner) run(ctx context.Context, rows []int, steps []moe.TuningStep) (err error) {
	defer func() { err = errors.Join(err, t.layers.close()) }()
	for _, step := range steps {
		for band, least := range rows {
			means := []int{2 * least, 4 * least} // of the top band, which has no end
			if band > 0 {
				means = []int{(least + rows[band-1]) / 2}
			}
			if step == moe.TuneGradients {
				means = means[:1]
			}
			if err := t.ask(ctx, band, step, means); err != nil {
				return err
			}
			if step == moe.TuneGradients {
				break // they are the whole table's
			}
		}
	}
	return nil
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

// shapesOf are the layers that a question is measured on: all for the tensor path in 16 bits, the first and the third for paths that
// are for other dtypes and formats, which take longer to make and check.
func (t *tuner) shapesOf(step moe.TuningStep) []benchCase {
	if step == moe.TuneRows || step == moe.TuneGradients || step == moe.TuneVectors || len(t.shapes) < 3 {
		return t.shapes
	}
	return []benchCase{t.shapes[0], t.shapes[2]}
}

// ask measures the candidates of a question on layers with so many mean rows per expert, and keeps the best.
func (t *tuner) ask(ctx context.Context, band int, step moe.TuningStep, means []int) error {
	candidates := t.table.Candidates(t.dev, band, step)
	if len(candidates) < 2 {
		return nil
	}
	if !t.end.IsZero() && time.Now().After(t.end) {
		fmt.Printf("%-17s from %3d rows: no time left\n", step, t.table.BandRows()[band])
		return nil
	}
	if t.most > 0 {
		candidates = candidates[:min(t.most, len(candidates))]
	}
	start := time.Now()
	var trials []moe.TuningTrial
	for _, shape := range t.shapesOf(step) {
		for _, mean := range means {
			shape.t = max(1, mean*shape.experts/shape.k)
			if step != moe.TuneGradients && t.table.BandOf(shape.t*shape.k, shape.experts) != band {
				continue // it is not for so many experts
			}
			times, err := t.try(ctx, shape, step, candidates)
			if errors.Is(err, vk.ErrOutOfMemory) {
				fmt.Printf("%s: %v\n", shape.Name(), err)
				continue
			}
			if err != nil {
				return err
			}
			trials = append(trials, moe.TuningTrial{In: shape.in, Out: shape.out, Times: times})
		}
	}
	if len(trials) == 0 {
		return nil
	}
	best := t.table.Best(band, step, candidates, trials)
	t.table = best.Table
	verdict := "kept"
	if best.Time < 1 {
		verdict = fmt.Sprintf("%.1f %% less time than %s", 100*(1-best.Time), candidates[0].What)
	}
	fmt.Printf("%-17s from %3d rows: %s: %s (%d candidates, %.1f s)\n", step, t.table.BandRows()[band], best.What, verdict,
		len(candidates), time.Since(start).Seconds())
	return moe.UseTuning(t.dev, t.table)
}
