package golden

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/vkmoe/vkmoe/vk"
)

// The exit codes of a run.
const (
	ExitPass     = 0 // all that was asked for passes
	ExitFail     = 1 // something fails
	ExitUnusable = 2 // nothing fails, but something that was asked for could not be judged
)

// A Report is the result of a run.
type Report struct {
	Device *DeviceInfo // nil when nothing ran
	DType  vk.DType    // of weights and activations
	Models []*ModelReport

	// Unusable is what kept every folder from being judged: no folder, no device, or a run that was interrupted.
	Unusable error
}

// DeviceInfo names the device that ran.
type DeviceInfo struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Driver     string `json:"driver"`
	DriverInfo string `json:"driver_info"`
	API        string `json:"api"`
}

func (d *DeviceInfo) String() string {
	return fmt.Sprintf("%s (%s), driver %s %s, Vulkan %s", d.Name, d.Type, d.Driver, d.DriverInfo, d.API)
}

// A ModelReport is the result of one folder.
type ModelReport struct {
	Folder, Name string
	Type         string // model_type
	Asked        []Part
	Tensors      []TensorReport
	Unsupported  []UnsupportedPart
	Unusable     error // why the folder could not be used, or not to the end
}

// An UnsupportedPart is a part that did not run because the library does not run it.
type UnsupportedPart struct {
	Part   Part   `json:"part"`
	Reason string `json:"reason"`
}

// A TensorReport is the result of one tensor.
type TensorReport struct {
	Name             string
	Part             Part
	Elements, Tokens int
	Error            float64 // relative Frobenius error; NaN when a value is not finite that should be
	Tolerance        float64
	Pass             bool
	NearTies         []Choice // tokens recorded with other experts; judged against the oracle
	WrongChoices     []Choice // tokens whose choice rounding does not explain
	Err              error    // why the block gave no result; nil when it did
}

// A Choice is one token whose experts were not those of the reference.
type Choice struct {
	Token  int     `json:"token"`
	Got    []int32 `json:"got"`
	Want   []int32 `json:"want"`
	Margin float64 `json:"margin"` // the gap between the lowest chosen and the highest unchosen logit
}

// Counts returns how many tensors pass and fail.
func (r *Report) Counts() (passed, failed int) {
	for _, m := range r.Models {
		for _, t := range m.Tensors {
			if t.Pass {
				passed++
			} else {
				failed++
			}
		}
	}
	return passed, failed
}

// Exit is the exit code of the run: a failure outranks what could not be judged. Parts that nobody named and the library
// does not support do not count, unless nothing at all could run.
func (r *Report) Exit() int {
	passed, failed := r.Counts()
	if failed > 0 {
		return ExitFail
	}
	if passed == 0 || r.Unusable != nil {
		return ExitUnusable
	}
	for _, m := range r.Models {
		if m.Unusable != nil || len(m.Asked) > 0 && len(m.Unsupported) > 0 {
			return ExitUnusable
		}
	}
	return ExitPass
}

// WriteText prints the device and one line per tensor.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	if r.Device != nil {
		fmt.Fprintf(&b, "device: %s\nstorage: %v\n", r.Device, r.DType)
	}
	for _, m := range r.Models {
		for i := range m.Tensors {
			m.Tensors[i].text(&b, m.Name)
		}
		m.textUnsupported(&b)
		if m.Unusable != nil {
			fmt.Fprintf(&b, "cannot be used     %s: %v\n", m.Name, m.Unusable)
		}
	}
	if r.Unusable != nil {
		fmt.Fprintf(&b, "cannot be used     %v\n", r.Unusable)
	}
	passed, failed := r.Counts()
	fmt.Fprintf(&b, "%d passed, %d failed\n", passed, failed)
	_, err := io.WriteString(w, b.String())
	return err
}

// textUnsupported prints one line per reason.
func (m *ModelReport) textUnsupported(b *strings.Builder) {
	printed := map[string]bool{}
	for _, u := range m.Unsupported {
		if printed[u.Reason] {
			continue
		}
		printed[u.Reason] = true
		var parts []string
		for _, other := range m.Unsupported {
			if other.Reason == u.Reason {
				parts = append(parts, string(other.Part))
			}
		}
		fmt.Fprintf(b, "not supported yet  %s %s: %s\n", m.Name, strings.Join(parts, ", "), u.Reason)
	}
}

func (t *TensorReport) text(b *strings.Builder, modelName string) {
	verdict := "FAIL"
	if t.Pass {
		verdict = "pass"
	}
	fmt.Fprintf(b, "%s  %s %s", verdict, modelName, t.Name)
	if t.Err != nil {
		fmt.Fprintf(b, "  %v\n", t.Err)
		return
	}
	fmt.Fprintf(b, "  relative error %.3g, limit %.3g, %d tokens", t.Error, t.Tolerance, t.Tokens)
	if n := len(t.NearTies); n > 0 {
		fmt.Fprintf(b, "; %d of them with other experts than recorded (near tie or rounding), judged with those", n)
	}
	if n := len(t.WrongChoices); n > 0 {
		c := t.WrongChoices[0]
		fmt.Fprintf(b, "; %d tokens went to wrong experts, first token %d to %v instead of %v with margin %.3g",
			n, c.Token, c.Got, c.Want, c.Margin)
	}
	b.WriteByte('\n')
}

// number is a float that JSON can hold: NaN and infinities are written as strings.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(fmt.Sprint(f))
	}
	return json.Marshal(float64(n))
}

type jsonTensor struct {
	Name         string   `json:"name"`
	Part         Part     `json:"part"`
	Elements     int      `json:"elements"`
	Tokens       int      `json:"tokens"`
	Error        number   `json:"relative_error"`
	Tolerance    float64  `json:"tolerance"`
	Pass         bool     `json:"pass"`
	NearTies     []Choice `json:"near_ties,omitempty"`
	WrongChoices []Choice `json:"wrong_choices,omitempty"`
	Reason       string   `json:"reason,omitempty"`
}

type jsonModel struct {
	Name        string            `json:"name"`
	Folder      string            `json:"folder"`
	Type        string            `json:"model_type,omitempty"`
	Tensors     []jsonTensor      `json:"tensors"`
	Unsupported []UnsupportedPart `json:"unsupported,omitempty"`
	Unusable    string            `json:"unusable,omitempty"`
}

// WriteJSON prints the report as one JSON object. A relative error that is not a finite number is a string.
func (r *Report) WriteJSON(w io.Writer) error {
	passed, failed := r.Counts()
	out := struct {
		Device *DeviceInfo `json:"device"`
		DType  string      `json:"dtype"`
		Models []jsonModel `json:"models"`
		Passed int         `json:"passed"`
		Failed int         `json:"failed"`
		Exit   int         `json:"exit"`

		Unusable string `json:"unusable,omitempty"`
	}{r.Device, r.DType.String(), []jsonModel{}, passed, failed, r.Exit(), ""}
	if r.Unusable != nil {
		out.Unusable = r.Unusable.Error()
	}
	for _, m := range r.Models {
		jm := jsonModel{Name: m.Name, Folder: m.Folder, Type: m.Type, Tensors: []jsonTensor{}, Unsupported: m.Unsupported}
		if m.Unusable != nil {
			jm.Unusable = m.Unusable.Error()
		}
		for _, t := range m.Tensors {
			jt := jsonTensor{t.Name, t.Part, t.Elements, t.Tokens, number(t.Error), t.Tolerance, t.Pass, t.NearTies, t.WrongChoices, ""}
			if t.Err != nil {
				jt.Reason = t.Err.Error()
			}
			jm.Tensors = append(jm.Tensors, jt)
		}
		out.Models = append(out.Models, jm)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
