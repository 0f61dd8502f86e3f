package session

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/vkmoe/vkmoe/internal/dashboard"
	"github.com/vkmoe/vkmoe/model"
	"github.com/vkmoe/vkmoe/model/train"
	"github.com/vkmoe/vkmoe/vk"
)

// act does what is asked. What cannot be done is told as a notice; an error ends the run.
func (s *Session) act(ctx context.Context, a dashboard.Action) error {
	work := context.WithoutCancel(ctx)
	switch a.Kind {
	case dashboard.Write:
		s.answers++
		return s.write(ctx, a.Text)
	case dashboard.Report:
		s.notice = "the report is on the clipboard"
		return nil
	case dashboard.SetSpeed:
		s.speed = min(max(a.N, 5), 100)
		return nil
	case dashboard.None, dashboard.Quit:
		return nil
	}
	if s.learner == nil {
		s.notice = "a checkpoint is read, not trained"
		return nil
	}
	switch a.Kind {
	case dashboard.Pause:
		if s.finished() {
			s.unbounded, s.paused = true, false
			return nil
		}
		if s.paused = !s.paused; s.paused {
			return s.look(work)
		}
	case dashboard.Step:
		s.once, s.unbounded = true, s.unbounded || s.finished()
	case dashboard.SetK:
		v := s.v
		v.k = min(max(a.N, 1), s.cfg.Sizes.Experts)
		return s.change(work, v, fmt.Sprintf("k = %d", v.k))
	case dashboard.ToggleDense:
		v := s.v
		v.dense = !v.dense
		return s.change(work, v, "")
	case dashboard.NextDType:
		v := s.v
		v.dtype = map[vk.DType]vk.DType{vk.F32: vk.BF16, vk.BF16: vk.F16}[v.dtype]
		return s.change(work, v, v.dtype.String())
	case dashboard.NextDevice:
		return s.nextDevice(work)
	case dashboard.Save:
		s.tell(s.save(work), "saved to "+s.cfg.File)
	case dashboard.Load:
		return s.load(work)
	}
	return nil
}

// tell makes a notice of how something went that a run survives.
func (s *Session) tell(err error, success string) {
	s.notice = success
	if err != nil {
		s.notice = err.Error()
	}
}

// change goes on as another variant. Where the kind stays, so do parameters, optimizer states and step: with another k each
// token's gates are the softmax over its k best experts' logits, and all costs of expert projections change in proportion;
// experts have learned in other company until then, so that the loss moves and then settles. Between experts and dense MLP
// each keeps its own parameters and steps. A variant that fails to be built leaves everything as it was.
func (s *Session) change(ctx context.Context, v variant, mark string) error {
	if v == s.v {
		return nil
	}
	state, err := s.learner.trainer.State(ctx)
	if err != nil {
		return err
	}
	from := state
	if v.kind() != s.v.kind() {
		from = s.others[v.kind()]
	}
	next, err := s.learner.change(ctx, s.dev, v, from)
	if errors.Is(err, vk.ErrDeviceLost) {
		return err
	}
	if err != nil {
		s.notice = err.Error()
		return nil
	}
	if err := s.learner.close(); err != nil {
		return errors.Join(err, next.close())
	}
	if v.kind() != s.v.kind() {
		s.others[s.v.kind()] = state
		delete(s.others, v.kind())
	}
	s.adopt(next, v, mark)
	return s.look(ctx)
}

// adopt makes a learner the session's.
func (s *Session) adopt(l *learner, v variant, mark string) {
	s.learner, s.v, s.loads, s.seconds, s.warm, s.notice = l, v, nil, 0, false, ""
	s.dev.ResetPeak()
	if mark != "" {
		h := s.history()
		h.Marks = append(h.Marks, dashboard.Mark{Step: l.trainer.Steps(), Label: mark})
	}
	s.describeDevice()
}

// nextDevice moves the run to the next usable device, if there is one.
func (s *Session) nextDevice(ctx context.Context) error {
	adapters, err := vk.Adapters()
	if err != nil {
		s.notice = err.Error()
		return nil
	}
	here := s.dev.Adapter().Index
	for i := 1; i < len(adapters); i++ {
		if a := adapters[(here+i)%len(adapters)]; a.Unusable == nil {
			return s.moveTo(ctx, a)
		}
	}
	s.notice = "there is no other usable device"
	return nil
}

func (s *Session) moveTo(ctx context.Context, a *vk.Adapter) error {
	state, err := s.learner.trainer.State(ctx)
	if err != nil {
		return err
	}
	dev, err := vk.Open(vk.Options{Device: fmt.Sprint(a.Index), Timestamps: true})
	if err != nil {
		s.notice = err.Error()
		return nil
	}
	next, err := s.learner.change(ctx, dev, s.v, state)
	if err != nil {
		s.notice = err.Error()
		return dev.Close()
	}
	err = errors.Join(s.learner.close(), s.dev.Close())
	s.dev = dev
	s.adopt(next, s.v, a.Name)
	if err != nil {
		return err
	}
	return s.look(ctx)
}

// write lets the model continue a prompt, and shows what it has so far as it goes on.
func (s *Session) write(ctx context.Context, prompt string) (err error) {
	d, ids := s.generating(prompt)
	if len(ids) == 0 {
		s.notice = "a prompt needs at least one character"
		return nil
	}
	capacity := d.Config.Positions
	count := min(s.cfg.Written, capacity-1)
	ids = ids[max(0, len(ids)+count-capacity):]
	g, err := model.NewGenerator(context.WithoutCancel(ctx), d, model.GeneratorConfig{Sequences: 1, Capacity: capacity,
		Sampling: model.SamplingConfig{Temperature: 0.7, TopK: 40, TopP: 0.95, Seed: s.cfg.Seed + uint64(s.Snapshot().Step)}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if s.prompt != "" {
		s.earlier = append(s.earlier, dashboard.Text{Step: s.writtenAt, Prompt: s.prompt, Written: s.written})
	}
	s.prompt, s.written, s.writing, s.writtenAt = prompt, "", true, s.Snapshot().Step
	defer func() { s.writing = false }()
	var tokens []int32
	_, err = g.Generate(context.WithoutCancel(ctx), model.Request{Prompts: [][]int32{ids}, Tokens: count, Token: func(_ int, token int32) bool {
		tokens = append(tokens, token)
		s.written = s.decode(tokens)
		s.publish()
		return ctx.Err() == nil
	}})
	return err
}

// generating returns the decoder that writes and a prompt as its tokens.
func (s *Session) generating(prompt string) (*model.Decoder, []int32) {
	if s.reader != nil {
		return s.reader.decoder, s.reader.encode(prompt)
	}
	return s.learner.decoder, train.Bytes([]byte(prompt))
}

// decode is the text of tokens that the model wrote.
func (s *Session) decode(tokens []int32) string {
	if s.reader != nil {
		return s.reader.decode(tokens)
	}
	text := make([]byte, len(tokens))
	for i, t := range tokens {
		text[i] = byte(t)
	}
	return strings.ToValidUTF8(string(text), "�")
}

// describeDevice renews the part of the report that only the session's goroutine knows.
func (s *Session) describeDevice() {
	var b strings.Builder
	b.WriteString(s.dev.Adapter().Report())
	if s.learner != nil {
		b.WriteString("\nkernels of a training step\n")
		for _, name := range s.learner.trainer.Kernels() {
			b.WriteString("  " + name + "\n")
		}
	}
	text := b.String()
	s.report.Store(&text)
}

// Report is a text for a bug report: versions, the run, the device, its driver and the kernels that were chosen for it.
func (s *Session) Report() string {
	var b strings.Builder
	b.WriteString("vkmoe-demo\n")
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(&b, "  %s %s, %s\n", info.Main.Path, info.Main.Version, info.GoVersion)
		for _, setting := range info.Settings {
			switch setting.Key {
			case "vcs.revision", "vcs.modified", "GOOS", "GOARCH":
				fmt.Fprintf(&b, "  %s %s\n", setting.Key, setting.Value)
			}
		}
	}
	n := s.Snapshot()
	fmt.Fprintf(&b, "  %s, k = %d, %s, %s at step %d\n", n.Model, n.K, n.DType, n.State, n.Step)
	if n.Problem != "" {
		fmt.Fprintf(&b, "  %s\n", n.Problem)
	}
	for _, c := range n.Curves {
		fmt.Fprintf(&b, "  %s: %.4f nats per token, %.4f held out\n", c.Name, lastLoss(c.Train), lastLoss(c.HeldOut))
	}
	fmt.Fprintf(&b, "  %.0f tokens/s, memory %d bytes live, %d peak\n\n", n.TokensPerSecond, n.Memory.Live, n.Memory.Peak)
	if device := s.report.Load(); device != nil {
		b.WriteString(*device)
	}
	return b.String()
}
