package ref

import "fmt"

// A Routing is the result of the stable counting sort of slots by expert.
type Routing struct {
	Tokens, Experts, K int

	IDs     []int32 // [T·K] expert of each slot, as given
	Order   []int32 // [valid] grouped position → slot, by expert, then by slot; valid = Offsets[E] ≤ T·K
	Inverse []int32 // [T·K] slot → grouped position, −1 where the id is outside [0,E)
	Offsets []int32 // [E+1] first grouped position of each expert; Offsets[E] is the number of valid slots
	Counts  []int32 // [E] slots of each expert

	BadCount int   // slots whose id is outside [0,E)
	BadSlot  int   // the lowest of them, −1 when there is none
	BadID    int32 // its id, 0 when there is none
}

// Route sorts slots by expert: ids [T,k] i32 → order, inverse and offsets. The sort is stable. An id outside [0,E) puts
// its slot in no group; it is counted and the lowest such slot is remembered.
func Route(ids []int32, tokens, experts, k int) *Routing {
	requireLen("Route", "ids", len(ids), tokens*k)
	r := &Routing{
		Tokens: tokens, Experts: experts, K: k, IDs: ids, BadSlot: -1,
		Inverse: make([]int32, len(ids)), Offsets: make([]int32, experts+1), Counts: make([]int32, experts),
	}
	for s, e := range ids {
		if e < 0 || int(e) >= experts {
			if r.BadCount == 0 {
				r.BadSlot, r.BadID = s, e
			}
			r.BadCount++
			continue
		}
		r.Counts[e]++
	}
	for e, n := range r.Counts {
		r.Offsets[e+1] = r.Offsets[e] + n
	}
	r.Order = make([]int32, r.Offsets[experts])
	next := append([]int32(nil), r.Offsets[:experts]...)
	for s, e := range ids {
		if e < 0 || int(e) >= experts {
			r.Inverse[s] = -1
			continue
		}
		r.Inverse[s] = next[e]
		r.Order[next[e]] = int32(s)
		next[e]++
	}
	return r
}

// Dense returns the routing of a plain linear layer: one expert, one choice, every row in its place.
func Dense(rows int) *Routing { return Route(make([]int32, rows), rows, 1, 1) }

// Slots returns T·K.
func (r *Routing) Slots() int { return r.Tokens * r.K }

// Valid reports whether a slot's id names an expert.
func (r *Routing) Valid(slot int) bool { return r.Inverse[slot] >= 0 }

// Tiles cuts each expert's rows into tiles of blockM rows, [tiles][3]: the expert, the tile's first grouped
// position and the end of the expert's. Tiles come in grouped order, an expert without rows has none, and only the last
// tile of an expert is ragged.
func (r *Routing) Tiles(blockM int) [][3]int32 {
	if blockM < 1 {
		panic(fmt.Sprintf("ref.Tiles: %d rows a tile", blockM))
	}
	tiles := make([][3]int32, 0, TileBound(r.Slots(), r.Experts, blockM))
	for e := 0; e < r.Experts; e++ {
		for p := int(r.Offsets[e]); p < int(r.Offsets[e+1]); p += blockM {
			tiles = append(tiles, [3]int32{int32(e), int32(p), r.Offsets[e+1]})
		}
	}
	return tiles
}

// TileBound is the number of tiles that a host which knows no counts has to launch: ⌈slots/blockM⌉ + min(E, slots).
func TileBound(slots, experts, blockM int) int {
	return (slots+blockM-1)/blockM + min(experts, slots)
}
