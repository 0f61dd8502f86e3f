package attention

import (
	"context"
	"errors"
	"sync"
	"weak"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// matrixPlaces says where a device keeps the elements of an M × N accumulator among a subgroup's invocations, as far as
// softmax over its rows needs to know. The element that an invocation holds at index e is in a row that depends on the
// invocation and on the row bits of e alone, and in a column that depends on it and on the other bits alone. The row bits are
// those of slots−1, shifted up by shift. Invocations whose numbers differ in the bits of mates alone hold the same rows.
type matrixPlaces struct {
	slots, shift, mates uint32
	pairs               bool // elements 2i and 2i+1 are neighbours in a row, the first in an even column
}

// placesOf reads a device's places [lane][e] = row·n + column, or returns false where they do not follow the pattern.
func placesOf(places [][]int, n int) (matrixPlaces, bool) {
	lanes, elements := len(places), len(places[0])
	rowBits, columnBits, mates := 0, 0, 0
	for bit := 1; bit < elements; bit *= 2 {
		if places[0][bit]/n != places[0][0]/n {
			rowBits |= bit
		} else {
			columnBits |= bit
		}
	}
	for bit := 1; bit < lanes; bit *= 2 {
		if places[bit][0]/n == places[0][0]/n {
			mates |= bit
		}
	}
	p := matrixPlaces{slots: 1, mates: uint32(mates), pairs: elements > 1}
	for rest := rowBits; rest > 0 && rest&1 == 0; rest /= 2 {
		p.shift++
	}
	p.slots = uint32(rowBits>>p.shift) + 1
	whole := p.slots&(p.slots-1) == 0 && elements&(elements-1) == 0 && lanes&(lanes-1) == 0
	seen := map[int]bool{}
	for lane, list := range places {
		for e, place := range list {
			row, column := list[e&rowBits]/n, list[e&columnBits]%n
			whole = whole && place >= 0 && place == row*n+column && list[e&rowBits]/n == places[lane&^mates][e&rowBits]/n
			p.pairs = p.pairs && list[e&^1]%2 == 0 && list[e|1%elements] == list[e&^1]+1
			seen[place] = true
		}
	}
	return p, whole && len(seen) == lanes*elements
}

// measuredPlaces keeps what devices said, by device and shape.
var measuredPlaces sync.Map

type placesKey struct {
	dev  weak.Pointer[vk.Device]
	m, n uint32
}

// placesResult is what a device said, if anything of use.
type placesResult struct {
	places matrixPlaces
	ok     bool
}

// placesFor asks the device, once, where it keeps the elements of an m × n accumulator. It returns false where the device
// cannot run the question or its places do not follow the pattern.
func placesFor(dev *vk.Device, m, n uint32) (matrixPlaces, bool) {
	key := placesKey{weak.Make(dev), m, n}
	if known, ok := measuredPlaces.Load(key); ok {
		r := known.(placesResult)
		return r.places, r.ok
	}
	var r placesResult
	switch places, err := askPlaces(dev, m, n); {
	case err == nil:
		r.places, r.ok = placesOf(places, int(n))
	case errors.Is(err, vk.ErrCompileOnly): // nobody answers: kernels are compiled for a column of each half of the rows per invocation
		lanes := dev.Caps().SubgroupSize
		r = placesResult{matrixPlaces{slots: m * n / lanes, mates: n - 1}, lanes%n == 0}
	}
	measuredPlaces.Store(key, r)
	return r.places, r.ok
}

// askPlaces runs coopmat_places and waits for it.
func askPlaces(dev *vk.Device, m, n uint32) (_ [][]int, err error) {
	caps := dev.Caps()
	lanes := caps.SubgroupSize
	elements := m * n / lanes
	if m*n%lanes != 0 {
		return nil, &vk.UnsupportedError{Device: dev.Adapter().Name, Need: "matrices that fill a subgroup"}
	}
	places, err := dev.NewTensor(vk.I32, int(lanes), int(elements))
	if err != nil {
		return nil, err
	}
	defer places.Close()
	rec, err := dev.NewRecorder()
	if err != nil {
		return nil, err
	}
	defer rec.Close()
	d := vk.Dispatch{Kernel: shaders.CoopmatPlaces, Linear: 1,
		Spec:   shaders.CoopmatPlacesSpec{Subgroup: lanes, MM: m, MN: n}.Values(),
		Push:   shaders.CoopmatPlacesPush{Places: places.Address()}.Bytes(),
		Writes: []*vk.Tensor{places}}
	if caps.Has(vk.FeatureSubgroupSize) {
		d.SubgroupSize = lanes
	}
	rec.Dispatch(d)
	if err := rec.Run(context.Background()); err != nil {
		return nil, err
	}
	flat, err := vk.Download[int32](context.Background(), places)
	if err != nil {
		return nil, err
	}
	table := make([][]int, lanes)
	for i, v := range flat {
		table[i/int(elements)] = append(table[i/int(elements)], int(v))
	}
	return table, nil
}
