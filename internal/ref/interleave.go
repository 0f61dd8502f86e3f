package ref

// Separate returns a matrix [rows, 2·hidden] whose columns are in turn the gate's and up's with the gate's first; or the reverse
// way, back.
func Separate[E any](z []E, rows, hidden int, back bool) []E {
	out := make([]E, len(z))
	for r := range rows {
		for c := range hidden {
			for half := range 2 {
				turn, apart := r*2*hidden+2*c+half, r*2*hidden+half*hidden+c
				if back {
					out[turn] = z[apart]
				} else {
					out[apart] = z[turn]
				}
			}
		}
	}
	return out
}
