package moe

import (
	"fmt"

	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// Columns are neighbouring columns of a matrix: Count of them from First on, or all where Count is 0.
type Columns struct{ First, Count int }

// columnsAlign is what First is a multiple of: 16 bytes of the narrowest storage type, which loads, stores and tiles may begin at.
const columnsAlign = 8

// check reports columns that a matrix of so many does not have, or that begin where no tile can. all says that only the zero value
// will do.
func (c Columns) check(config string, width int, all bool) error {
	switch {
	case c == Columns{}:
		return nil
	case all:
		return check.Config(config, "Columns", "all for gradients", fmt.Sprintf("%+v", c))
	case c.First < 0 || c.Count < 1 || c.First > width-c.Count:
		return check.Config(config, "Columns", fmt.Sprintf("some of %d", width), fmt.Sprintf("%+v", c))
	case c.First%columnsAlign != 0:
		return check.Config(config, "Columns.First", fmt.Sprintf("a multiple of %d", columnsAlign), fmt.Sprint(c.First))
	}
	return nil
}

// rowWidth is how many columns y may have: width, or only those that are asked for.
func (c Columns) rowWidth(y *vk.Tensor, width int) int {
	if c.Count > 0 && y != nil && y.Rank() == 2 && y.Dim(1) == c.Count {
		return c.Count
	}
	return width
}

// perColumn is how many outputs of the layer make a column of y.
func (l *ParallelLinear) perColumn() int {
	if l.epilogue.gated() {
		return 2
	}
	return 1
}

// outputs are how many of the layer's outputs are computed.
func (l *ParallelLinear) outputs() int {
	if l.columns.Count > 0 {
		return l.columns.Count * l.perColumn()
	}
	return l.Config.Out
}

// fillColumns says in push constants which outputs to compute and where y has them. Its address is that of the whole matrix's first
// column, even where y begins further right.
func (l *ParallelLinear) fillColumns(push *shaders.Scatter2scatterPush, y *vk.Tensor) {
	c, width := l.columns, l.Config.Out/l.perColumn()
	if y.Dim(1) != width {
		push.Y -= uint64(c.First) * y.DType().Bytes()
	}
	push.FirstOut = uint32(c.First * l.perColumn())
	push.EndOut, push.RowWidth = push.FirstOut+uint32(l.outputs()), uint32(y.Dim(1))
}
