package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/internal/safetensors"
	"github.com/vkmoe/vkmoe/model/train"
)

// FileName is what a saved run is usually called.
const FileName = "vkmoe-demo.safetensors"

// A FileError is a file that holds no run of this program, or one that does not fit.
type FileError struct{ Path, Detail string }

func (e *FileError) Error() string { return fmt.Sprintf("cannot resume from %s: %s", e.Path, e.Detail) }

// headerKey is the member of a file's metadata that holds the header.
const headerKey = "vkmoe-demo"

// format is the version of the file's form.
const format = 1

// header is what a saved run has beside tensors.
type header struct {
	Format    int                 `json:"format"`
	Sizes     Sizes               `json:"sizes"`
	FirstK    int                 `json:"first_k"` // Config.K, which the dense MLP's width follows from
	Seed      uint64              `json:"seed"`
	K         int                 `json:"k"`
	Dense     bool                `json:"dense"`
	Steps     map[string]int      `json:"steps"` // by kind, of the models in the file
	Histories map[string]*history `json:"histories"`
}

// saved is a file's contents.
type saved struct {
	header
	path   string
	states map[string]*train.State
}

// save writes the run to Config.File, all at once: where that fails, an older file stays as it was.
func (s *Session) save(ctx context.Context) error {
	if s.cfg.File == "" {
		return errors.New("there is no file to save to")
	}
	state, err := s.learner.trainer.State(ctx)
	if err != nil {
		return err
	}
	h := header{Format: format, Sizes: s.cfg.Sizes, FirstK: s.cfg.K, Seed: s.cfg.Seed, K: s.v.k, Dense: s.v.dense, Steps: map[string]int{},
		Histories: s.histories}
	var entries []safetensors.Entry
	add := func(kind string, state *train.State) {
		h.Steps[kind] = state.Steps
		for _, p := range state.Params {
			shape := []int{len(p.Value)}
			name := kind + "/" + p.Name
			entries = append(entries, safetensors.Float32(name+".value", shape, p.Value), safetensors.Float32(name+".m", shape, p.M),
				safetensors.Float32(name+".v", shape, p.V))
		}
	}
	add(s.v.kind(), state)
	for kind, other := range s.others {
		add(kind, other)
	}
	text, err := json.Marshal(finite(h))
	if err == nil {
		err = safetensors.WriteFile(s.cfg.File, entries, map[string]string{headerKey: string(text)})
	}
	if err != nil {
		return fmt.Errorf("cannot save the run: %w", err)
	}
	s.savedAt, s.savedStep = time.Now(), state.Steps
	return nil
}

// finite leaves out the points that JSON has no form for.
func finite(h header) header {
	keep := func(points []dashboard.Point) []dashboard.Point {
		return slices.DeleteFunc(slices.Clone(points), func(p dashboard.Point) bool {
			return math.IsNaN(p.Value) || math.IsInf(p.Value, 0)
		})
	}
	histories := map[string]*history{}
	for kind, old := range h.Histories {
		clean := *old
		clean.Curve.Train, clean.Curve.HeldOut = keep(old.Curve.Train), keep(old.Curve.HeldOut)
		histories[kind] = &clean
	}
	h.Histories = histories
	return h
}

// autosave saves where it is time to. A failure is told and the run goes on.
func (s *Session) autosave(ctx context.Context) error {
	if s.cfg.Autosave == 0 || s.cfg.File == "" || time.Since(s.savedAt) < s.cfg.Autosave {
		return nil
	}
	first := s.savedAt.IsZero()
	if s.savedAt = time.Now(); first { // the clock starts with the first step
		return nil
	}
	if err := s.save(ctx); err != nil {
		s.notice = err.Error()
		s.publish()
	}
	return nil
}

// saveAtEnd saves what has been learned since the run was last saved.
func (s *Session) saveAtEnd() error {
	if s.learner == nil || s.cfg.File == "" || s.learner.trainer.Steps() == s.savedStep {
		return nil
	}
	return s.save(context.Background())
}

// readSaved reads a file that save wrote.
func readSaved(path string) (*saved, error) {
	file, err := safetensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot resume: %w", err)
	}
	defer file.Close()
	text, ok := file.Metadata()[headerKey]
	if !ok {
		return nil, &FileError{path, "it holds no run of this program"}
	}
	r := &saved{path: path, states: map[string]*train.State{}}
	if err := json.Unmarshal([]byte(text), &r.header); err != nil {
		return nil, &FileError{path, err.Error()}
	}
	if r.Format != format {
		return nil, &FileError{path, fmt.Sprintf("its format is %d, this program reads %d", r.Format, format)}
	}
	for kind, steps := range r.Steps {
		if kindNames[kind] == "" || r.Histories[kind] == nil {
			return nil, &FileError{path, fmt.Sprintf("it holds a model called %q", kind)}
		}
		r.states[kind] = &train.State{Steps: steps}
	}
	if r.states[r.variant().kind()] == nil {
		return nil, &FileError{path, "the model it was saved with is missing"}
	}
	return r, r.read(file)
}

func (r *saved) variant() variant { return variant{k: r.K, dense: r.Dense} }

// read fills the states in; which parameters belong to a model is judged by the trainer that takes them.
func (r *saved) read(file *safetensors.File) error {
	names := file.Names()
	slices.Sort(names)
	for kind, state := range r.states {
		for _, name := range names {
			param, ok := cutAround(name, kind+"/", ".value")
			if !ok {
				continue
			}
			p := train.ParamState{Name: param}
			for _, part := range []struct {
				suffix string
				to     *[]float32
			}{{".value", &p.Value}, {".m", &p.M}, {".v", &p.V}} {
				var err error
				if *part.to, err = file.Float32s(kind + "/" + param + part.suffix); err != nil {
					return fmt.Errorf("cannot resume: %w", err)
				}
			}
			state.Params = append(state.Params, p)
		}
	}
	return nil
}

// cutAround is what of name lies between a prefix and a suffix that it has.
func cutAround(name, prefix, suffix string) (string, bool) {
	if len(name) < len(prefix)+len(suffix) || name[:len(prefix)] != prefix || name[len(name)-len(suffix):] != suffix {
		return "", false
	}
	return name[len(prefix) : len(name)-len(suffix)], true
}

// configure makes a configuration that of the saved run, whose model it is to be.
func (r *saved) configure(cfg Config) (Config, error) {
	cfg.Sizes, cfg.K, cfg.Seed = r.Sizes, r.FirstK, r.Seed
	cfg, err := cfg.normalized()
	if err != nil {
		return cfg, &FileError{r.path, err.Error()}
	}
	if r.K < 1 || r.K > cfg.Sizes.Experts {
		return cfg, &FileError{r.path, fmt.Sprintf("k is %d of %d experts", r.K, cfg.Sizes.Experts)}
	}
	return cfg, nil
}

// restore goes on from a saved run with a learner of its configuration.
func (s *Session) restore(ctx context.Context, r *saved) error {
	for kind, state := range r.states {
		if kind != s.v.kind() {
			s.others[kind] = state
		}
	}
	if err := s.learner.trainer.SetState(ctx, s.ordered(r.states[s.v.kind()])); err != nil {
		return &FileError{r.path, err.Error()}
	}
	s.histories = r.Histories
	if r.path == s.cfg.File {
		s.savedStep = s.learner.trainer.Steps()
	}
	s.notice = fmt.Sprintf("goes on from step %d of %s", s.learner.trainer.Steps(), r.path)
	return s.look(ctx)
}

// ordered is a state with its parameters in the order of the model's, those it lacks left out.
func (s *Session) ordered(state *train.State) *train.State {
	out := &train.State{Steps: state.Steps}
	for _, p := range s.learner.decoder.Parameters() {
		if i := slices.IndexFunc(state.Params, func(q train.ParamState) bool { return q.Name == p.Name }); i >= 0 {
			out.Params = append(out.Params, state.Params[i])
		}
	}
	return out
}

// load goes back to what Config.File holds. A file that does not fit is told.
func (s *Session) load(ctx context.Context) error {
	r, err := readSaved(s.cfg.File)
	if err != nil {
		s.notice = err.Error()
		return nil
	}
	if r.Sizes != s.cfg.Sizes || r.FirstK != s.cfg.K {
		s.notice = (&FileError{r.path, "its model has other sizes"}).Error()
		return nil
	}
	v := r.variant()
	v.dtype = s.v.dtype
	next, err := newLearner(ctx, s.dev, s.cfg, v)
	if err != nil {
		s.notice = err.Error()
		return nil
	}
	if err := s.learner.close(); err != nil {
		return errors.Join(err, next.close())
	}
	s.others = map[string]*train.State{}
	s.adopt(next, v, "")
	return s.restore(ctx, r)
}
