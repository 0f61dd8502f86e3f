package conform

import (
	"fmt"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// placesCases ask a device which elements of an accumulator each invocation of a subgroup holds: together they hold every element
// once. Flash attention by cooperative matrices goes by what it says.
func placesCases(add func(Case)) {
	add(Case{Name: "matrix.places.coopmat.accumulators", Needs: shaders.CoopmatPlaces.Needs, Required: true, Record: matrixPlaces})
}

func matrixPlaces(k *Kit) func() {
	caps := k.Dev.Caps()
	lanes := caps.SubgroupSize
	var judges []func()
	seen := map[[2]uint32]bool{}
	for _, s := range caps.CooperativeMatrix {
		m, n := s.M, s.N
		if s.Scope != "subgroup" || s.D != "f32" || s.Saturating || m*n%lanes != 0 || seen[[2]uint32{m, n}] {
			continue
		}
		seen[[2]uint32{m, n}] = true
		name := fmt.Sprintf("places_%d_%d", m, n)
		places := k.Output(name, vk.I32, int(lanes), int(m*n/lanes))
		d := vk.Dispatch{Kernel: shaders.CoopmatPlaces, Linear: 1, Spec: shaders.CoopmatPlacesSpec{Subgroup: lanes, MM: m, MN: n}.Values(),
			Push: shaders.CoopmatPlacesPush{Places: places.Address()}.Bytes(), Writes: []*vk.Tensor{places}}
		if caps.Has(vk.FeatureSubgroupSize) {
			d.SubgroupSize = lanes
		}
		k.Rec.Dispatch(d)
		judges = append(judges, func() { k.judgePlaces(name, k.Ints(places)) })
	}
	if len(judges) == 0 {
		k.must(&vk.UnsupportedError{Device: k.Dev.Adapter().Name, Need: "an accumulator of f32 that fills a subgroup"})
	}
	return func() {
		for _, judge := range judges {
			judge()
		}
	}
}

// judgePlaces asks that every element of a matrix is in one place.
func (k *Kit) judgePlaces(name string, places []int32) {
	holders := make([]int, len(places))
	for _, p := range places {
		if p < 0 || int(p) >= len(places) {
			k.Fail(CheckOracle, name, "an invocation holds element %d of %d", p, len(places))
			return
		}
		holders[p]++
	}
	for p, n := range holders {
		if n != 1 {
			k.Fail(CheckOracle, name, "element %d is in %d places", p, n)
			return
		}
	}
}
