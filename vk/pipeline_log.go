package vk

// pipelineLog remembers the pipelines of a recording in the order of their first use.
type pipelineLog struct {
	known map[*pipeline]bool
	specs []PipelineSpec
}

func (l *pipelineLog) add(p *pipeline, d *Dispatch) {
	if l.known[p] {
		return
	}
	if l.known == nil {
		l.known = map[*pipeline]bool{}
	}
	l.known[p] = true
	l.specs = append(l.specs, PipelineSpec{d.Kernel, d.Spec, d.SubgroupSize})
}

// Pipelines lists what the recording has dispatched so far, each pipeline once in the order of first use: for Compile in
// another process, for Executables, and to tell what a result was made by.
func (r *Recorder) Pipelines() []PipelineSpec { return append([]PipelineSpec(nil), r.kernels.specs...) }
