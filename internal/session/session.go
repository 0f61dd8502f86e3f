package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/vk"
)

// A Session is a run that goes on in a goroutine of its own. All methods may be called from any goroutine.
type Session struct {
	cfg      Config
	cancel   context.CancelFunc
	snapshot atomic.Pointer[dashboard.Snapshot]
	report   atomic.Pointer[string]
	done     chan struct{}
	closing  sync.Once
	closed   error

	mu      sync.Mutex // guards actions and err
	actions []dashboard.Action
	wake    chan struct{} // holds a token while there may be actions
	err     error

	run // the goroutine's own
}

// run is what only the session's goroutine touches once it has begun.
type run struct {
	dev          *vk.Device
	learner      *learner
	reader       *reader
	v            variant
	others       map[string]*train.State // what is not on the device, by kind
	histories    map[string]*history     // by kind
	text         train.Windows
	heldOut      []int32
	pieces       []string // the text that looks show
	paused, once bool
	warm         bool // the learner has made a step
	unbounded    bool // goes on behind Steps
	speed        int  // percent
	loads        [][]int
	routers      []dashboard.Router
	times        []dashboard.StepTime
	seconds      float64 // of a step, a running mean
	notice       string
	prompt       string
	written      string
	writing      bool
	earlier      []dashboard.Text
	writtenAt    int // the step after which the newest text was written
	answers      int // prompts that were begun
	savedAt      time.Time
	savedStep    int
	serial       uint64
}

// history is what a model's curves are made of.
type history struct {
	Curve  dashboard.Curve    `json:"curve"`
	Marks  []dashboard.Mark   `json:"marks"`
	Spread []dashboard.Spread `json:"spread"`
}

// kindNames are what curves are called.
var kindNames = map[string]string{"moe": "mixture of experts", "dense": "dense MLP"}

// Open opens the device, builds the model or opens the checkpoint, and begins. Errors: a *ConfigError, those of package vk for
// the device and of package model for a checkpoint, a *FileError for a run that cannot be resumed. ctx ends the session as
// Close does, but without waiting.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	cfg, err := cfg.normalized()
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.v = variant{cfg.K, cfg.Dense, cfg.DType}
	s.speed, s.others, s.histories = 100, map[string]*train.State{}, map[string]*history{}
	s.snapshot.Store(&dashboard.Snapshot{State: dashboard.Starting, Layers: cfg.Sizes.Layers, Experts: cfg.Sizes.Experts, K: cfg.K})
	if s.dev, err = vk.Open(vk.Options{Device: cfg.Device, Timestamps: true}); err != nil {
		return nil, err
	}
	setUp := s.setUpLearner
	if cfg.Model != "" {
		setUp = s.setUpReader
	}
	if err := setUp(context.WithoutCancel(ctx)); err != nil {
		return nil, errors.Join(err, s.release())
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.publish()
	go s.loop(ctx)
	return s, nil
}

func (s *Session) setUpLearner(ctx context.Context) error {
	var saved *saved
	if s.cfg.Resume != "" {
		var err error
		if saved, err = readSaved(s.cfg.Resume); err != nil {
			return err
		}
		if s.cfg, err = saved.configure(s.cfg); err != nil {
			return err
		}
		s.v.k, s.v.dense = saved.K, saved.Dense
	}
	tokens := train.Bytes(s.cfg.Text)
	cut := s.cfg.cut()
	s.text, s.heldOut = train.Windows{Tokens: tokens[:cut], Seed: s.cfg.Seed}, tokens[cut:]
	s.pieces = pieces(s.cfg.Text[cut:][:s.cfg.shown(len(s.heldOut))])
	l, err := newLearner(ctx, s.dev, s.cfg, s.v)
	if err != nil {
		return err
	}
	s.learner = l
	s.describeDevice()
	if saved != nil {
		return s.restore(ctx, saved)
	}
	return s.look(ctx)
}

// Snapshot is the newest state of the run. It is never nil.
func (s *Session) Snapshot() *dashboard.Snapshot { return s.snapshot.Load() }

// Do queues an action and returns at once; actions take effect between two steps.
func (s *Session) Do(a dashboard.Action) {
	s.mu.Lock()
	s.actions = append(s.actions, a)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Done is closed when the run has ended: after Close, the end of Open's context, or an error. A run whose steps are done waits
// for further actions and is not ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is what ended the run, nil while it goes on and after Close.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the run after the step that it is at, saves it where Config.File says so, and frees everything. It returns what
// saving and freeing failed with, the same every time.
func (s *Session) Close() error {
	s.closing.Do(func() {
		s.cancel()
		<-s.done
		var err error
		if s.Err() == nil { // after a failure there is nothing to be had from the device
			err = s.saveAtEnd()
		}
		s.closed = errors.Join(err, s.release())
	})
	return s.closed
}

// Saved reports, once the session is closed, whether Config.File holds its run.
func (s *Session) Saved() bool { return s.savedStep > 0 }

// release frees what lives on the device and closes it.
func (s *Session) release() error {
	var err error
	if s.learner != nil {
		err = s.learner.close()
	}
	if s.reader != nil {
		err = errors.Join(err, s.reader.close())
	}
	return errors.Join(err, s.dev.Close())
}

// take returns the queued actions.
func (s *Session) take() []dashboard.Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.actions
	s.actions = nil
	return list
}

// loop is the session's goroutine. What it begins on the device it finishes: ctx is looked at between steps only.
func (s *Session) loop(ctx context.Context) {
	defer close(s.done)
	for ctx.Err() == nil {
		err := s.turn(ctx)
		if err != nil && ctx.Err() == nil {
			s.fail(err)
			return
		}
	}
}

// turn does what is due: actions, a step, or nothing until something is.
func (s *Session) turn(ctx context.Context) error {
	work := context.WithoutCancel(ctx)
	for _, a := range s.take() {
		if err := s.act(ctx, a); err != nil {
			return err
		}
		s.publish()
	}
	if !s.running() {
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
		return nil
	}
	begin := time.Now()
	if err := s.step(work); err != nil {
		return err
	}
	if s.once {
		s.once, s.paused = false, true
	}
	s.publish()
	if err := s.autosave(work); err != nil {
		return err
	}
	if s.speed < 100 {
		rest := time.Duration(float64(time.Since(begin)) * float64(100-s.speed) / float64(s.speed))
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-time.After(rest):
		}
	}
	return nil
}

// running reports whether the next turn is a step.
func (s *Session) running() bool {
	return s.learner != nil && (!s.paused || s.once) && !s.finished()
}

func (s *Session) finished() bool {
	return s.learner != nil && s.cfg.Steps > 0 && !s.unbounded && s.learner.trainer.Steps() >= s.cfg.Steps
}

// fail ends the run with an error that says how to go on.
func (s *Session) fail(err error) {
	if errors.Is(err, vk.ErrDeviceLost) {
		err = fmt.Errorf("the device was lost at step %d: %w; %s", s.Snapshot().Step+1, err, s.wayBack())
	}
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	next := *s.Snapshot()
	next.State, next.Problem = dashboard.Failed, err.Error()
	next.Serial++
	s.snapshot.Store(&next)
}

// wayBack says from where a run can be resumed.
func (s *Session) wayBack() string {
	if s.savedStep == 0 {
		return "nothing had been saved yet"
	}
	return fmt.Sprintf("the run as of step %d is in %s", s.savedStep, s.cfg.File)
}
