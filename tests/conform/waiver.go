package conform

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// A Waiver says that cases are known to go wrong on some drivers, and why. Its fields narrow it down; empty ones do not.
type Waiver struct {
	Cases  string `json:"cases"`            // glob
	Vendor string `json:"vendor,omitempty"` // PCI vendor id, such as 0x10de
	Device string `json:"device,omitempty"` // glob over the device's name
	Driver string `json:"driver,omitempty"` // glob over the driver's name
	From   string `json:"from,omitempty"`   // first driver version concerned, as in the driver's own version text
	To     string `json:"to,omitempty"`     // last one
	Reason string `json:"reason"`
	Link   string `json:"link"`
}

// ReadWaivers reads a JSON list of waivers. A waiver without cases, reason or link is refused, and so are fields that there
// are none of.
func ReadWaivers(path string) ([]Waiver, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Waiver
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%s: more than one list", path)
	}
	for i, w := range list {
		if w.Cases == "" || w.Reason == "" || w.Link == "" {
			return nil, fmt.Errorf("%s: waiver %d lacks cases, reason or link", path, i+1)
		}
		if _, err := strconv.ParseUint(w.Vendor, 0, 32); w.Vendor != "" && err != nil {
			return nil, fmt.Errorf("%s: waiver %d: vendor %q is no number", path, i+1, w.Vendor)
		}
	}
	return list, nil
}

// Waive turns a bad result into a waived one where a waiver of the list fits the case and the device.
func Waive(r *Result, list []Waiver, d Device) {
	if !r.Status.Bad() {
		return
	}
	for i, w := range list {
		if w.fits(r.Name, d) {
			r.Reason = fmt.Sprintf("%s, waived: %s (%s)", r.Status, w.Reason, w.Link)
			r.Status, r.Waiver = Waived, &list[i]
			return
		}
	}
}

func (w Waiver) fits(name string, d Device) bool {
	vendor, _ := strconv.ParseUint(w.Vendor, 0, 32)
	version := versionIn(d.DriverInfo)
	device, _ := strconv.ParseUint(d.VendorID, 0, 32)
	switch {
	case !compileGlob(w.Cases).MatchString(name):
	case w.Vendor != "" && vendor != device:
	case w.Device != "" && !compileGlob(w.Device).MatchString(d.Name):
	case w.Driver != "" && !compileGlob(w.Driver).MatchString(d.Driver):
	case w.From != "" && compareVersions(version, versionIn(w.From)) < 0:
	case w.To != "" && compareVersions(version, versionIn(w.To)) > 0:
	default:
		return true
	}
	return false
}

var versionText = regexp.MustCompile(`\d+(\.\d+)+|\d+`)

// versionIn finds the numbers of the first version in a text, none when there is none.
func versionIn(text string) []int {
	var list []int
	found := versionText.FindString(text)
	if found == "" {
		return nil
	}
	for _, part := range strings.Split(found, ".") {
		n, _ := strconv.Atoi(part)
		list = append(list, n)
	}
	return list
}

// compareVersions compares number by number as far as both have any, so that 22.3 includes 22.3.6.
func compareVersions(a, b []int) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] - b[i]
		}
	}
	return 0
}
