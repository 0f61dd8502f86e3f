package moe

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vkmoe/vkmoe/vk"
)

// TuningVariable is the environment variable that says where a device's own table is: off for nowhere, or a file instead of the
// one in the cache folder.
const TuningVariable = "VKMOE_TUNING"

// A TuningKey says which device, driver and kernels a table was measured with. It is of no use for others.
type TuningKey struct {
	DeviceUUID    string `json:"device_uuid"`
	DriverUUID    string `json:"driver_uuid"`
	DriverVersion string `json:"driver_version"`
	SubgroupSize  uint32 `json:"subgroup_size"` // which some drivers let the user choose
	Kernels       string `json:"kernels"`       // digest of the kernels that the table chooses among
}

// TuningStatus says which table is in force on a device.
type TuningStatus struct {
	Table  *Tuning
	Source string // "built in for tensor devices", say, a file, or "set by the program"
	// Ignored says why a device's own table was there and not taken, or nil.
	Ignored error
}

// deviceTuning is what Device.Value keeps for this package.
type deviceTuning struct {
	current atomic.Pointer[Tuning]
	status  atomic.Pointer[TuningStatus]
}

type tuningValueKey struct{}

// tuningState is read once per device: at its first use by a layer or a routing.
func tuningState(dev *vk.Device) *deviceTuning {
	return dev.Value(tuningValueKey{}, func() any {
		s := &deviceTuning{}
		s.set(readTuning(dev))
		return s
	}).(*deviceTuning)
}

func (s *deviceTuning) set(status TuningStatus) {
	s.current.Store(status.Table)
	s.status.Store(&status)
}

// BuiltInTuning is the table for the device's class: software devices, GPUs without cooperative matrices for 16-bit values, and
// GPUs with them.
func BuiltInTuning(dev *vk.Device) *Tuning { return classTunings()[classOf(dev)] }

// TuningOf returns the table in force on a device. A device's own table, in the file TuningPath, goes before its class's; it is
// read when the device is first used. One that is broken, or of another device, driver or version of the library, is ignored,
// with the reason in the status.
func TuningOf(dev *vk.Device) TuningStatus { return *tuningState(dev).status.Load() }

// UseTuning puts a table in force for what is recorded on the device from now on. Routings that were recorded before it may be cut
// otherwise than layers then expect, which fail with a *vk.ShapeError. It fails with a *ConfigError.
func UseTuning(dev *vk.Device, t *Tuning) error {
	if err := t.Validate(); err != nil {
		return err
	}
	tuningState(dev).set(TuningStatus{Table: t, Source: "set by the program"})
	return nil
}

// TuningPath is the file of a device's own table: in the device's cache folder, or what VKMOE_TUNING names. It is "" where tables
// are switched off by VKMOE_TUNING=off or the device's NoCache.
func TuningPath(dev *vk.Device) string {
	switch path := os.Getenv(TuningVariable); {
	case path == "off":
		return ""
	case path != "":
		return path
	case dev.CacheDir() == "":
		return ""
	}
	a := dev.Adapter()
	return filepath.Join(dev.CacheDir(), fmt.Sprintf("tuning-%x-%x-%08x-%d.json", a.DeviceUUID, a.DriverUUID, a.DriverVersion,
		a.Caps.SubgroupSize))
}

// readTuning finds the table for a device.
func readTuning(dev *vk.Device) TuningStatus {
	status := TuningStatus{Table: BuiltInTuning(dev), Source: fmt.Sprintf("built in for %v devices", classOf(dev))}
	path := TuningPath(dev)
	if path == "" {
		return status
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && os.Getenv(TuningVariable) == "" {
		return status
	}
	var t *Tuning
	if err == nil {
		t, err = parseTuning(data)
	}
	if err == nil {
		err = t.suits(dev)
	}
	if err != nil {
		status.Ignored = fmt.Errorf("moe: tuning table %s: %w", path, err)
		return status
	}
	return TuningStatus{Table: t, Source: path}
}

// suits reports why a table is of no use on a device.
func (t *Tuning) suits(dev *vk.Device) error {
	if t.Class != classOf(dev) {
		return fmt.Errorf("it is for %v devices, this is one of class %v", t.Class, classOf(dev))
	}
	if want := tuningKey(dev); t.Key == nil || *t.Key != want {
		return fmt.Errorf("it was measured with another device, driver or version of the library: %+v instead of %+v", t.Key, want)
	}
	return nil
}

// tuningKey describes the present device, driver and kernels.
func tuningKey(dev *vk.Device) TuningKey {
	a := dev.Adapter()
	return TuningKey{DeviceUUID: fmt.Sprintf("%x", a.DeviceUUID), DriverUUID: fmt.Sprintf("%x", a.DriverUUID),
		DriverVersion: fmt.Sprintf("%08x", a.DriverVersion), SubgroupSize: a.Caps.SubgroupSize, Kernels: kernelDigest()}
}

// kernelDigest changes with every kernel that a table chooses among.
var kernelDigest = sync.OnceValue(func() string {
	kernels := slices.Concat(slices.Collect(maps.Values(linearKernels)), slices.Collect(maps.Values(decodeKernels)),
		slices.Collect(maps.Values(tensorKernels)), slices.Collect(maps.Values(tensorXTYKernels)))
	slices.SortFunc(kernels, func(a, b *vk.Kernel) int { return cmp.Compare(a.Name(), b.Name()) })
	sum := sha256.New()
	for _, k := range kernels {
		if err := binary.Write(sum, binary.LittleEndian, k.SPIRV()); err != nil {
			panic(err) // a hash takes everything
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:8])
})

// Save writes the table as the device's own to TuningPath, where devices that are opened from then on find it, and returns the
// file's name. A copy is written: the table itself keeps what it was measured on.
func (t *Tuning) Save(dev *vk.Device) (string, error) {
	path := TuningPath(dev)
	if path == "" {
		return "", fmt.Errorf("moe: there is no place for a tuning table: %s is off, or the device has no cache folder", TuningVariable)
	}
	own, key, a := *t, tuningKey(dev), dev.Adapter()
	own.Key = &key
	own.Measured = TuningMeasured{a.Name, a.DriverName + " " + a.DriverInfo, time.Now().UTC().Format(time.DateOnly)}
	data, err := json.MarshalIndent(own, "", "\t")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tuning-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return path, nil
}
