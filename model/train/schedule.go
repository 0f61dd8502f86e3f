package train

import (
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/moe"
)

// A Schedule is a learning rate over the steps of a run: it rises linearly from 0 for Warmup steps, then falls along half a
// cosine until it reaches Floor times the peak at step Steps, and stays there. Without Steps it stays at the peak.
type Schedule struct {
	Peak   float64 // the largest rate
	Warmup int     // steps
	Steps  int     // of the whole run; 0 for no decay
	Floor  float64 // share of the peak, 0 to 1
}

// Validate reports the first field that makes no sense as a *moe.ConfigError.
func (s Schedule) Validate() error {
	bad := func(field, want string, got any) error {
		return &moe.ConfigError{Config: "Schedule", Field: field, Want: want, Got: fmt.Sprint(got)}
	}
	switch {
	case !(s.Peak >= 0 && s.Peak < 1e6):
		return bad("Peak", "0 to 1e6", s.Peak)
	case s.Warmup < 0:
		return bad("Warmup", "at least 0", s.Warmup)
	case s.Steps < 0 || s.Steps > 0 && s.Steps < s.Warmup:
		return bad("Steps", "0, or at least Warmup", s.Steps)
	case !(s.Floor >= 0 && s.Floor <= 1):
		return bad("Floor", "0 to 1", s.Floor)
	}
	return nil
}

// Rate is the learning rate of a step, counted from 1.
func (s Schedule) Rate(step int) float64 {
	if step <= s.Warmup {
		return s.Peak * float64(step) / float64(s.Warmup)
	}
	if s.Steps == 0 {
		return s.Peak
	}
	done := math.Min(1, float64(step-s.Warmup)/float64(max(1, s.Steps-s.Warmup)))
	return s.Peak * (s.Floor + (1-s.Floor)*(1+math.Cos(math.Pi*done))/2)
}
