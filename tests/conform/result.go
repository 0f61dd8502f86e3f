package conform

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// A Status is the result of a case. Only Pass is a pass.
type Status string

// The results.
const (
	Pass        Status = "pass"
	Fail        Status = "fail"
	Unsupported Status = "unsupported" // the device lacks something that the case needs; Reason names it
	Waived      Status = "waived"      // it failed, crashed, hung or lost the device, and a waiver says that this is known
	Crash       Status = "crash"       // the process of the case ended
	Timeout     Status = "timeout"     // the case took too long and its process was killed
	Lost        Status = "lost"        // the device was lost
)

// Statuses lists every result, in the order in which tables print them.
var Statuses = []Status{Pass, Fail, Crash, Timeout, Lost, Waived, Unsupported}

// Bad reports whether the result speaks against the driver.
func (s Status) Bad() bool { return s == Fail || s == Crash || s == Timeout || s == Lost }

// A Result is what became of one case.
type Result struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Reason  string  `json:"reason,omitempty"` // of every result but a pass, in one line
	Seconds float64 `json:"seconds,omitempty"`
	Worst   Number  `json:"worst,omitempty"` // the largest error in units of its bound

	Failures []Failure `json:"failures,omitempty"`
	Attempts []Status  `json:"attempts,omitempty"` // results of every run of a case that was run again
	Flaky    bool      `json:"flaky,omitempty"`    // the runs differ
	Evidence string    `json:"evidence,omitempty"` // folder with inputs, outputs and kernels
	Repro    string    `json:"repro,omitempty"`    // the command that runs it once more
	Waiver   *Waiver   `json:"waiver,omitempty"`
	Output   string    `json:"output,omitempty"` // the last lines that a process wrote before it ended
}

// A Number is a float that JSON can hold: NaN and infinities are written as strings.
type Number float64

// MarshalJSON writes six digits.
func (n Number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(fmt.Sprint(f))
	}
	return strconv.AppendFloat(nil, f, 'g', 6, 64), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *Number) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		text = string(data)
	}
	f, err := strconv.ParseFloat(text, 64)
	*n = Number(f)
	return err
}
