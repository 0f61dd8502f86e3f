package dashboard

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// opticks is some text to be read.
const opticks = `DEFIN. I.

By the Rays of Light I understand its least Parts, and those as well
Successive in the same Lines, as Contemporary in several Lines. For it
is manifest that Light consists of Parts, both Successive and
Contemporary; because in the same place you may stop that which comes
one moment, and let pass that which comes presently after; and in the
same time you may stop it in any one place, and let it pass in any
other. For that part of Light which is stopp'd cannot be the same with
that which is let pass. `

// sample is a run at a step of 400, with random but fixed numbers.
func sample(step, experts, k int) *Snapshot {
	rng := rand.New(rand.NewPCG(1, 2))
	s := &Snapshot{
		Serial: 1, State: Training, Device: "llvmpipe (LLVM 15.0.6, 256 bits)", Driver: "llvmpipe Mesa 22.3.6", DType: "f32",
		Model: fmt.Sprintf("4 layers, width 96, %d experts of 96 in attention and MLP", experts), TextName: "Newton, Opticks (1730)",
		K: k, Experts: experts, Layers: 4, Speed: 100, Step: step, Steps: 400, TokensPerSecond: 1480, FLOPS: 9.7e9,
		Memory:  Memory{Live: 61 << 20, Peak: 84 << 20, Extra: 23 << 20},
		Marks:   []Mark{{step / 2, "k = 3"}},
		Earlier: []Text{{100, "The Rays of Light ", "tho the the sand of"}, {200, "The Rays of Light ", "and the Colour of the\nGlass"}},
		Prompt:  "The Rays of Light ", Written: "are the Refractions of the Glass, and the Colours\nof the Prism the same Side of the Paper were as the",
	}
	curve := Curve{Name: "mixture of experts"}
	for i := 1; i <= step; i++ {
		v := 1.9 + 3.7*math.Exp(-float64(i)/40)
		curve.Train = append(curve.Train, Point{i, v + 0.15*rng.NormFloat64()})
		if i%10 == 0 {
			curve.HeldOut = append(curve.HeldOut, Point{i, v + 0.1})
		}
		s.Spread = append(s.Spread, Spread{i, 1.3 + 1.5*math.Exp(-float64(i)/60) + 0.05*rng.Float64(), 0.97 - 0.2*math.Exp(-float64(i)/50)})
		t := StepTime{Step: i}
		for g := range t.Seconds {
			t.Seconds[g] = 0.04*float64(g+1) + 0.01*rng.Float64()
		}
		s.Times = append(s.Times, t)
	}
	s.Curves = []Curve{curve}
	s.Times = s.Times[max(0, len(s.Times)-60):]
	text := strings.Repeat(opticks, 2)
	for _, ch := range []byte(text) {
		s.Text = append(s.Text, string(rune(ch)))
	}
	for i := range 8 {
		r := Router{Layer: i / 2, Block: []string{"attention", "MLP"}[i%2], K: k, Load: make([]int, experts)}
		for range s.Text {
			for j, e := range rng.Perm(experts)[:k] {
				r.IDs = append(r.IDs, int32(e))
				r.Gates = append(r.Gates, float32(0.7-0.2*float64(j)+0.1*rng.Float64()))
				if rng.IntN(e+1) == 0 {
					r.Load[e]++
				}
			}
		}
		s.Routers = append(s.Routers, r)
	}
	return s
}
