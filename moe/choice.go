package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/vk"
)

// A Choice is what a layer does for a number of rows on a device.
type Choice struct {
	MeanRows int    // rows per active expert
	Band     int    // least mean rows of the table's band that decided
	Kernel   string // stem and dtypes
	Path     Path   // printed as portable, coopmat or decode
	Tile     string // in words
	Table    string // where the table is from

	// Pipeline is what the device compiles for it, for [vk.Device.Compile] before it is needed.
	Pipeline vk.PipelineSpec
}

func (c Choice) String() string {
	return fmt.Sprintf("%d rows per expert (band from %d): %s path, %s, %s; table %s", c.MeanRows, c.Band, c.Path, c.Kernel, c.Tile, c.Table)
}

// Choice says which kernel and tile the layer's forward pass takes for so many rows (T·K) of the layer's dtype on a device, where
// nothing but the widths, the dtype and the table decides: operands of F32 beside 16-bit weights, and operands at addresses that
// are no multiple of 16, take the portable path. It fails with a *vk.UnsupportedError where the layer's Path rules everything out.
func (l *ParallelLinear) Choice(dev *vk.Device, rows int) (Choice, error) {
	status := TuningOf(dev)
	band := status.Table.band(rows, l.Config.Experts)
	c := Choice{MeanRows: rows / max(1, min(rows, l.Config.Experts)), Band: band.MeanRows, Table: status.Source}
	x, err := dev.NewTensor(l.Config.DType, 1, l.Config.In)
	if err != nil {
		return c, err
	}
	defer x.Close()
	y, err := dev.NewTensor(l.Config.DType, 1, l.Config.Out)
	if err != nil {
		return c, err
	}
	defer y.Close()
	tile := band.portable(l.Config.Out)
	d := vk.Dispatch{Kernel: linearKernels[l.types(x, y)], Spec: l.portableSpec(tile, x).Values()}
	c.Path, _ = l.choosePath(dev, tile, rows, rows, x, y, &d, l.plain(l.push(x, y)))
	c.Kernel, c.Pipeline = d.Kernel.Name(), vk.PipelineSpec{Kernel: d.Kernel, Spec: d.Spec, SubgroupSize: d.SubgroupSize}
	switch c.Path {
	case PathDecode:
		c.Tile = l.vectorTile(dev, rows, rows).String()
	case PathCoopMat:
		c.Tile = l.tensorTile(dev, rows, x, y).String()
	default:
		if c.Tile = tile.String(); l.Config.Path == PathCoopMat {
			return c, l.noTensorPath(dev)
		}
	}
	return c, nil
}
