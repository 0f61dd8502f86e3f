package model

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/vkmoe/vkmoe/attention"
)

// rope reads the rotary embedding of heads of a width into p.w.RoPE. transformers 5 writes rope_parameters, which hold the base
// too; older checkpoints have rope_scaling, often null, beside rope_theta.
func (p *attentionParser) rope(width int, base float64) {
	if p.err != nil {
		return
	}
	r := p.object("rope_parameters")
	if r == nil {
		r = p.object("rope_scaling")
	}
	if r == nil {
		r = &fields{path: p.path}
	}
	for name, value := range r.values {
		if value[0] == '{' {
			p.unsupported(p.c.Type, fmt.Sprintf("rotary parameters of their own for %s", name))
		}
	}
	top := p.fields
	p.w.RoPE = attention.RoPEConfig{Width: width, Base: r.number("rope_theta", top.number("rope_theta", base))}
	partial := r.number("partial_rotary_factor", top.number("partial_rotary_factor", 1))
	if p.w.RoPE.Width = int(float64(width) * partial); partial > 1 || p.w.RoPE.Width < 2 || p.w.RoPE.Width%2 != 0 {
		r.fail("partial_rotary_factor", "%v of a head of %d elements leaves %d to be rotated", partial, width, p.w.RoPE.Width)
	}
	p.ropeScaling(r)
	if r.err != nil && p.err == nil {
		p.err = r.err
	}
}

// ropeScaling reads rope_type and what belongs to it.
func (p *attentionParser) ropeScaling(r *fields) {
	c := &p.w.RoPE
	kind := r.text("rope_type", r.text("type", "default"))
	original := func() int {
		const field = "original_max_position_embeddings"
		if !r.has(field) {
			return p.size("max_position_embeddings", 1, math.MaxInt32)
		}
		return r.size(field, 1, math.MaxInt32)
	}
	required := func(field string) float64 {
		if !r.has(field) {
			r.fail(field, "is absent")
		}
		return r.number(field, 1)
	}
	switch kind {
	case "default":
		return
	case "linear":
		c.Scaling = attention.ScaleLinear
	case "yarn":
		c.Scaling, c.OriginalPositions = attention.ScaleYaRN, original()
		c.BetaFast, c.BetaSlow = r.number("beta_fast", 32), r.number("beta_slow", 1)
		c.NoTruncate = !r.boolean("truncate", true)
		c.AttentionFactor = r.number("attention_factor", 0)
		c.MScale, c.MScaleAllDim = r.number("mscale", 0), r.number("mscale_all_dim", 0)
	case "llama3":
		c.Scaling, c.OriginalPositions = attention.ScaleLlama3, original()
		c.LowFreqFactor, c.HighFreqFactor = required("low_freq_factor"), required("high_freq_factor")
	default:
		if r.err == nil {
			p.unsupported(p.c.Type, fmt.Sprintf("rope_type %q", kind))
		}
	}
	c.Factor = required("factor")
}

// object returns the members of a member that is an object, nil when it is absent or null. Their faults are its own, not f's.
func (f *fields) object(field string) *fields {
	if !f.has(field) {
		return nil
	}
	inner := &fields{path: f.path, part: f.part, within: field + "."}
	if err := json.Unmarshal(f.values[field], &inner.values); err != nil {
		f.fail(field, "%s is not an object", f.values[field])
	}
	return inner
}

// number reads a finite number above 0.
func (f *fields) number(field string, absent float64) float64 {
	if !f.has(field) {
		return absent
	}
	var v float64
	if err := json.Unmarshal(f.values[field], &v); err != nil {
		f.fail(field, "%s is not a number", f.values[field])
		return 0
	}
	if !(v > 0) {
		f.fail(field, "%v is not positive", v)
	}
	return v
}

// texts reads a list of strings, nil when it is absent.
func (f *fields) texts(field string) []string {
	var v []string
	if f.has(field) {
		if err := json.Unmarshal(f.values[field], &v); err != nil {
			f.fail(field, "%s is not a list of strings", f.values[field])
		}
	}
	return v
}
