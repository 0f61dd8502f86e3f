package present

// SetFault puts the results of f in the place of calls that a window system may refuse; 0 lets the call happen.
func (p *Presenter) SetFault(f func(op string) int32) { p.fault = f }

// OutOfDate, Suboptimal and SurfaceLost are the results that are no failure.
const (
	OutOfDate   = outOfDate
	Suboptimal  = suboptimal
	SurfaceLost = surfaceLost
)
