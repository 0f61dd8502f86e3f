package train_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/vk"
)

// TestRoutingTensors is the worked example of doc/extending.md.
func TestRoutingTensors(t *testing.T) {
	dev := openDevice(t)
	// Three tokens, two choices each, three experts.
	ids := []int32{2, 0, 0, 2, 2, 1}            // [T,K]: slots 0 and 1 are token 0's, which chose experts 2 and 0
	order := []int32{1, 2, 5, 0, 3, 4}          // grouped position → slot: expert 0 has slots 1 and 2, expert 1 slot 5, …
	inverse := []int32{3, 0, 1, 4, 5, 2}        // slot → grouped position
	offsets := []int32{0, 2, 3, 6}              // expert e has the positions offsets[e] to offsets[e+1]
	tiles := []int32{0, 0, 2, 1, 2, 3, 2, 3, 6} // (expert, first position, end of the expert's) of each tile of at most BlockM rows
	tileArgs := []uint32{3, 1, 1, 3}            // work-group counts for one work-group per tile; the number of tiles

	tensor, err := moe.NewIDs(t.Context(), dev, ids, 2, 3)
	require.NoError(t, err)
	defer tensor.Close()
	rec := record(t, dev)
	r, err := moe.RouteIDs(rec, tensor, nil, 3)
	require.NoError(t, err)
	require.NoError(t, rec.Run(t.Context()))
	require.GreaterOrEqual(t, r.BlockM, 3)
	for name, c := range map[string]struct {
		tensor *vk.Tensor
		want   []int32
	}{"order": {r.Order, order}, "inverse": {r.Inverse, inverse}, "offsets": {r.Offsets, offsets}, "tiles": {r.Tiles, tiles}} {
		got, err := vk.Download[int32](t.Context(), c.tensor)
		require.NoError(t, err)
		require.Equal(t, c.want, got[:len(c.want)], name)
	}
	got, err := vk.Download[uint32](t.Context(), r.TileArgs)
	require.NoError(t, err)
	require.Equal(t, tileArgs, got)
}
