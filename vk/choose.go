package vk

import (
	"cmp"
	"errors"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// deviceVariable names the device where Options.Device does not.
const deviceVariable = "VKMOE_DEVICE"

// quietVariable, set to 1, silences the notice about software devices.
const quietVariable = "VKMOE_QUIET"

// A DeviceChoiceError is a wish for a device that is not there or cannot be used.
type DeviceChoiceError struct {
	Want   string   // the index or name part that was asked for
	Have   []string // the devices there are, one line each
	Reason error    // why the device that matches cannot be used; nil when none matches
}

func (e *DeviceChoiceError) Error() string {
	what := "there is no device " + strconv.Quote(e.Want)
	if e.Reason != nil {
		what = fmt.Sprintf("device %q cannot be used (%v)", e.Want, e.Reason)
	}
	return fmt.Sprintf("vk: %s; the devices are:\n  %s", what, strings.Join(e.Have, "\n  "))
}

// Unwrap returns Reason.
func (e *DeviceChoiceError) Unwrap() error { return e.Reason }

// Choose describes the device that Open takes for Options.Device want, without opening it.
//
// Errors: those of Adapters, and of Open where no device fits.
func Choose(want string) (*Adapter, error) {
	adapters, err := Adapters()
	if err != nil {
		return nil, err
	}
	return chooseAdapter(adapters, cmp.Or(want, os.Getenv(deviceVariable)))
}

// chooseAdapter picks a device. want is an index in Adapters, or a part of a device's or its driver's name in any case;
// of several matches, and when want is empty, the best usable one is taken: discrete before integrated, virtual, other
// and software ones, then the larger device-local memory, then the lower index. A number of three or more digits that is
// no index is part of a name ("4090").
//
// Errors: *DeviceChoiceError for a want that matches no usable device, ErrNoDevice when want is empty and no device is
// usable.
func chooseAdapter(adapters []*Adapter, want string) (*Adapter, error) {
	matches := adapters
	want = strings.TrimSpace(want)
	if want != "" {
		matches = matchAdapters(adapters, want)
	}
	usable := slices.DeleteFunc(slices.Clone(matches), func(a *Adapter) bool { return a.Unusable != nil })
	if len(usable) > 0 {
		best := slices.MinFunc(usable, compareAdapters)
		if want == "" && best.Type == Software {
			noticeSoftware(best)
		}
		return best, nil
	}
	var reasons []error
	for _, a := range matches {
		reasons = append(reasons, a.Unusable)
	}
	if want == "" {
		if len(reasons) == 0 {
			return nil, fmt.Errorf("%w: there is no device at all; %s", ErrNoDevice, deviceHint(runtime.GOOS))
		}
		return nil, fmt.Errorf("%w: %w; %s", ErrNoDevice, errors.Join(reasons...), deviceHint(runtime.GOOS))
	}
	e := &DeviceChoiceError{Want: want, Reason: errors.Join(reasons...)}
	for _, a := range adapters {
		e.Have = append(e.Have, a.String())
	}
	return nil, e
}

// matchAdapters returns the adapters that want names.
func matchAdapters(adapters []*Adapter, want string) []*Adapter {
	if i, err := strconv.Atoi(want); err == nil {
		for _, a := range adapters {
			if a.Index == i {
				return []*Adapter{a}
			}
		}
		if len(want) < 3 {
			return nil
		}
	}
	part := strings.ToLower(want)
	var matches []*Adapter
	for _, a := range adapters {
		if strings.Contains(strings.ToLower(a.Name), part) || strings.Contains(strings.ToLower(a.DriverName), part) {
			matches = append(matches, a)
		}
	}
	return matches
}

// typeRank orders adapter types, best first.
var typeRank = map[AdapterType]int{Discrete: 0, Integrated: 1, Virtual: 2, Other: 3, Software: 4}

// compareAdapters is negative when a is the better choice.
func compareAdapters(a, b *Adapter) int {
	return cmp.Or(
		cmp.Compare(typeRank[a.Type], typeRank[b.Type]),
		cmp.Compare(b.LocalBytes(), a.LocalBytes()),
		cmp.Compare(a.Index, b.Index),
	)
}

var softwareNotice sync.Once

// noticeSoftware says once per process that the work is done on the CPU because there is nothing better.
func noticeSoftware(a *Adapter) {
	if quiet := os.Getenv(quietVariable); quiet != "" && quiet != "0" {
		return
	}
	softwareNotice.Do(func() {
		log.Printf("vkmoe: no GPU found; using the software device %s (set %s=1 to silence this)", a.Name, quietVariable)
	})
}
