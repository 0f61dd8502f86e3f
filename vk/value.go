package vk

import "sync"

// deviceValue is what one key of Value stands for.
type deviceValue struct {
	once  sync.Once
	value any
}

// Value returns what make returned when key was first asked for on this device: for packages that keep something per device,
// which so lives as long as the device. Keys are of a type of their own, as those of a context. Callers that ask at the same
// time wait for one call of make, which must not ask for its own key.
func (d *Device) Value(key any, make func() any) any {
	cell, _ := d.values.LoadOrStore(key, &deviceValue{})
	v := cell.(*deviceValue)
	v.once.Do(func() { v.value = make() })
	return v.value
}
