package report

import (
	"slices"

	"github.com/vkmoe/vkmoe/tests/conform"
)

// JudgeFault sums up what the cases of a planted fault gave. A fault whose cases all lack a capability of the device is not
// judged; any bad result of a case is a find.
func JudgeFault(f conform.FaultDef, results []conform.Result) Fault {
	out := Fault{Name: f.Name, Kernel: f.Kernel, Description: f.Description}
	checks := map[string]bool{}
	for _, r := range results {
		if r.Status == conform.Unsupported {
			continue
		}
		out.Cases++
		if !r.Status.Bad() {
			continue
		}
		if out.Failed++; out.First == "" {
			out.First = r.Name
		}
		if r.Status != conform.Fail {
			checks[string(r.Status)] = true
		}
		for _, x := range r.Failures {
			checks[x.Check] = true
		}
	}
	out.Unsupported = out.Cases == 0
	for c := range checks {
		out.Checks = append(out.Checks, c)
	}
	slices.Sort(out.Checks)
	return out
}
