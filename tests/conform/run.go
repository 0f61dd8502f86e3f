package conform

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/vkmoe/vkmoe/vk"
)

// Options are the choices of a run of one case.
type Options struct {
	Seed     uint64 // base seed
	Evidence string // folder that a failing case leaves its evidence in; empty for none
	Attempt  int    // how often the case was run before
	Before   bool   // leave inputs and kernels there before the run too, for a case that may take the process with it
}

// Run runs one case on a device and judges it. Errors of the device's loss are Lost, of missing features Unsupported,
// everything else that goes wrong Fail. It panics for nothing that the device does; a driver that crashes takes the
// process with it.
func Run(ctx context.Context, dev *vk.Device, c Case, o Options) Result {
	start := time.Now()
	r := Result{Name: c.Name}
	f := dev.Caps().Missing(c.Needs...)
	switch {
	case c.Record == nil:
		r.Status = Pass
	case f != "":
		r.Status, r.Reason = Unsupported, "needs "+string(f)
	default:
		e := &execution{ctx: ctx, dev: dev, c: c, o: o, found: &findings{wants: map[string][]float64{}}}
		e.messages = len(vk.ValidationMessages())
		err := e.all()
		e.conclude(&r, err)
		if cerr := e.close(); cerr != nil && r.Status == Pass {
			r.Status, r.Reason = Fail, cerr.Error()
		}
	}
	r.Seconds = float64(time.Since(start).Microseconds()) / 1e6
	return r
}

// execution is one run of a case: two recordings of it.
type execution struct {
	ctx      context.Context
	dev      *vk.Device
	c        Case
	o        Options
	found    *findings
	kits     []*Kit
	messages int // validation messages before
}

// all runs the case three times in two recordings.
func (e *execution) all() error {
	k, judge, err := e.record(0)
	if err != nil {
		return err
	}
	if e.o.Before && e.o.Evidence != "" {
		if err := e.keep(&Result{Name: e.c.Name, Status: Crash, Reason: "as it was before the run"}); err != nil {
			return err
		}
	}
	if err := e.run(k); err != nil {
		return err
	}
	first, err := e.verify(k)
	if err != nil {
		return err
	}
	if judge != nil {
		if err := guarded(judge); err != nil {
			return err
		}
	}
	if len(e.found.failures) > 0 {
		return nil
	}
	if !k.once {
		if err := k.refill(); err != nil {
			return err
		}
		if err := e.repeat(k, first, "submitted again"); err != nil {
			return err
		}
	}
	again, _, err := e.record(1)
	if err != nil {
		return err
	}
	return e.repeat(again, first, "recorded again over other contents")
}

// guarded calls f and returns what it aborts with.
func guarded(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a, ok := p.(abort)
			if !ok {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				return
			}
			err = a.err
		}
	}()
	f()
	return nil
}

// record makes a kit and lets the case record into it.
func (e *execution) record(flavor int) (k *Kit, judge func(), err error) {
	rec, err := e.dev.NewRecorder()
	if err != nil {
		return nil, nil, err
	}
	k = &Kit{Ctx: e.ctx, Dev: e.dev, Rec: rec, Rand: rand.New(rand.NewSource(seedOf(e.o.Seed, e.c.Name))), flavor: flavor,
		closes: []func() error{rec.Close}, found: e.found, attempt: e.o.Attempt}
	e.kits = append(e.kits, k)
	err = guarded(func() { judge = e.c.Record(k) })
	return k, judge, errors.Join(err, rec.Err())
}

// run submits a kit's recording and waits.
func (e *execution) run(k *Kit) error {
	err := k.Rec.Run(e.ctx)
	if k.runErr != nil && !errors.Is(err, vk.ErrDeviceLost) {
		if wrong := k.runErr(err); wrong != nil {
			k.Fail(CheckError, "", "%v", wrong)
		}
		return nil
	}
	return err
}

// repeat runs a kit and compares all outputs with the first run's.
func (e *execution) repeat(k *Kit, first [][]uint32, how string) error {
	if err := e.run(k); err != nil {
		return err
	}
	got, err := e.verify(k)
	if err != nil {
		return err
	}
	for i, words := range first {
		b := k.bands[i]
		for j, w := range words {
			same := got[i][j] == w
			if b.partial && slices.Contains(poisonsOf(b.view.DType()), w) {
				same = got[i][j] == k.poison(b.view.DType())
			}
			if !same {
				e.found.add(Failure{Check: CheckRepeat, Tensor: b.name,
					Message: fmt.Sprintf("%s: element %d was %08x and is %08x", how, j, w, got[i][j])})
				break
			}
		}
	}
	return nil
}

func poisonsOf(dtype vk.DType) []uint32 {
	a, b := (&Kit{}).poison(dtype), (&Kit{flavor: 1}).poison(dtype)
	return []uint32{a, b}
}

// verify checks bands, inputs and that outputs are written, and returns the bits of the outputs, nil for inputs.
func (e *execution) verify(k *Kit) ([][]uint32, error) {
	out := make([][]uint32, len(k.bands))
	for i, b := range k.bands {
		got, err := k.words(b.root)
		if err != nil {
			return nil, err
		}
		inside := b.view.Elements()
		if b.output {
			out[i] = got[b.front : b.front+inside]
		}
		for j, w := range got {
			in := j >= b.front && j < b.front+inside
			if f, bad := b.fault(k, j, in, w); bad {
				f.Tensor = b.name
				f.Message = fmt.Sprintf(f.Message, j-b.front, inside)
				e.found.add(f)
				break
			}
		}
	}
	return out, nil
}

// fault says what is wrong with word j of a tensor.
func (b *banded) fault(k *Kit, j int, inside bool, w uint32) (Failure, bool) {
	poison := k.poison(b.view.DType())
	switch {
	case inside && b.output:
		return Failure{Check: CheckUnwritten, Message: "element %d of %d was not written"}, !b.partial && w == poison && b.start != nil
	case w == b.start[j]:
		return Failure{}, false
	case inside:
		return Failure{Check: CheckInput, Message: fmt.Sprintf("element %%d of %%d changed from %08x to %08x", b.start[j], w)}, true
	}
	return Failure{Check: CheckGuard, Message: fmt.Sprintf("element %%d, outside the %%d, changed from %08x to %08x", b.start[j], w)}, true
}

// conclude fills in the result.
func (e *execution) conclude(r *Result, err error) {
	r.Worst = Number(e.found.worst)
	e.validation(err)
	var missing *vk.UnsupportedError
	switch {
	case errors.Is(err, vk.ErrDeviceLost):
		r.Status, r.Reason = Lost, err.Error()
	case errors.As(err, &missing):
		r.Status, r.Reason = Unsupported, missing.Error()
		return
	case err != nil:
		e.found.add(Failure{Check: CheckError, Message: err.Error()})
	}
	r.Failures = e.found.failures
	if r.Status == "" {
		r.Status = Pass
		if len(r.Failures) > 0 {
			f := r.Failures[0]
			r.Status, r.Reason = Fail, strings.TrimSpace(fmt.Sprintf("%s %s: %s", f.Check, f.Tensor, firstLine(f.Message)))
		}
	}
	if r.Status != Pass && e.o.Evidence != "" {
		if err := e.keep(r); err != nil {
			r.Reason += fmt.Sprintf(" (no evidence: %v)", err)
		}
	}
}

// validation reports the messages of the validation layer since the case began.
func (e *execution) validation(err error) {
	var told *vk.ValidationError
	if errors.As(err, &told) {
		return // it is the error already
	}
	all := vk.ValidationMessages()
	for _, m := range all[min(e.messages, len(all)):] {
		e.found.add(Failure{Check: CheckValidation, Message: m.String()})
	}
}

func (e *execution) close() error {
	var all error
	for _, k := range e.kits {
		all = errors.Join(all, k.close())
	}
	return all
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
