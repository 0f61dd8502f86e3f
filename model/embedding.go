package model

import (
	"github.com/vkmoe/vkmoe/internal/check"
	"github.com/vkmoe/vkmoe/moe"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

var (
	embeddingKernels = check.ByStorage{shaders.EmbeddingF32, shaders.EmbeddingF16, shaders.EmbeddingBf16}

	// embeddingBackwardKernels are by the dtypes of dy and of the table's gradient.
	embeddingBackwardKernels = check.NewByTypes(shaders.EmbeddingBackwardF32, shaders.EmbeddingBackwardF16, shaders.EmbeddingBackwardF16F32,
		shaders.EmbeddingBackwardBf16, shaders.EmbeddingBackwardBf16F32)
)

// linkThreads is the work-group size of token_links.
const linkThreads = 64

// maxSoftwareTokens bounds the tokens that a device which computes on the CPU links: lavapipe ends a shader's loops without a
// word after 65,535 iterations.
const maxSoftwareTokens = 65535

// Embed records y[t] = scale·table[ids[t]] for ids I32 [T], table [V,D] and y [T,D] of one storage dtype. An id outside
// [0, V) gives a row of zeros.
// Errors: see the package.
func Embed(rec *vk.Recorder, table, ids, y *vk.Tensor, scale float32) error {
	const op = "Embed"
	err := check.First(check.Storage(op, "table", table), check.Rank(op, "table", table, 2), check.Rank(op, "ids", ids, 1))
	if err == nil {
		tokens, width := ids.Dim(0), table.Dim(1)
		err = check.First(
			check.Tensor(rec.Device(), op, "table", table, table.DType(), table.Shape()...),
			check.Tensor(rec.Device(), op, "ids", ids, vk.I32, tokens),
			check.Tensor(rec.Device(), op, "y", y, table.DType(), tokens, width),
			check.Apart(op, "y", y, check.Inputs{"table": table, "ids": ids}),
		)
	}
	if err == nil && table.Elements() == 0 {
		err = &vk.ShapeError{Op: op, Arg: "table", Want: "rows and columns", Got: table.String()}
	}
	if err != nil {
		return rec.Fail(err)
	}
	tokens, width := ids.Dim(0), table.Dim(1)
	grid := check.NewGrid(width, width%4 == 0 && check.Quads(table, y))
	rec.Dispatch(vk.Dispatch{
		Kernel: embeddingKernels[table.DType()],
		Spec:   shaders.EmbeddingSpec{Columns: grid.Columns, Rows: grid.Rows, Quads: grid.Quads}.Values(),
		Push: shaders.EmbeddingPush{Ids: ids.Address(), Table: table.Address(), Y: y.Address(), Tokens: uint32(tokens),
			Width: uint32(width), Vocabulary: uint32(table.Dim(0)), Scale: scale}.Bytes(),
		Linear: grid.Groups(tokens, width),
		Reads:  []*vk.Tensor{ids, table},
		Writes: []*vk.Tensor{y},
		FLOPs:  float64(tokens) * float64(width),
	})
	return rec.Err()
}

// EmbedBackward records dTable[v] = scale·Σ dy[t] over the tokens t with ids[t] = v, t ascending, or adds that to dTable:
// ids I32 [T], dy [T,D] of a storage dtype, dTable [V,D] of the same or F32. Ids outside [0, V) take no part. It takes 8·T
// bytes of scratch, and 4·V·D to overwrite a 16-bit dTable that does not consist of whole words. A device that computes on the
// CPU takes at most 65,535 tokens.
// Errors: see the package.
func EmbedBackward(rec *vk.Recorder, ids, dy, dTable *vk.Tensor, scale float32, accumulate bool) error {
	const op = "EmbedBackward"
	if err := checkEmbedBackward(rec, op, ids, dy, dTable); err != nil {
		return rec.Fail(err)
	}
	if !accumulate {
		if err := clearTensor(rec, dTable); err != nil {
			return err
		}
	}
	tokens, width := ids.Dim(0), dTable.Dim(1)
	next, previous := rec.Scratch(vk.I32, tokens), rec.Scratch(vk.I32, tokens)
	if rec.Err() != nil || tokens == 0 {
		return rec.Err()
	}
	defer rec.Release(next)
	defer rec.Release(previous)
	rec.Fill(previous, 0xffffffff)
	rec.Dispatch(vk.Dispatch{
		Kernel: shaders.TokenLinks,
		Spec:   shaders.TokenLinksSpec{Threads: linkThreads}.Values(),
		Push:   shaders.TokenLinksPush{Ids: ids.Address(), Next: next.Address(), Previous: previous.Address(), Tokens: uint32(tokens)}.Bytes(),
		Linear: uint64(check.CeilDiv(tokens, linkThreads)),
		Reads:  []*vk.Tensor{ids},
		Writes: []*vk.Tensor{next, previous},
		FLOPs:  float64(tokens) * float64(tokens) / 2,
	})
	grid := check.NewGrid(width, false)
	rec.Dispatch(vk.Dispatch{
		Kernel: embeddingBackwardKernels[[2]vk.DType{dy.DType(), dTable.DType()}],
		Spec:   shaders.EmbeddingBackwardSpec{Columns: grid.Columns, Rows: grid.Rows, Accumulate: accumulate}.Values(),
		Push: shaders.EmbeddingBackwardPush{Ids: ids.Address(), Next: next.Address(), Previous: previous.Address(),
			Dy: dy.Address(), Table: dTable.Address(), Tokens: uint32(tokens), Width: uint32(width),
			Vocabulary: uint32(dTable.Dim(0)), Scale: scale}.Bytes(),
		Linear: grid.Groups(tokens, width),
		Reads:  []*vk.Tensor{ids, next, previous, dy, dTable},
		Writes: []*vk.Tensor{dTable},
		FLOPs:  float64(tokens) * float64(width),
	})
	return rec.Err()
}

// clearTensor records zeros. A fill writes whole words, which 16-bit tensors need not consist of.
func clearTensor(rec *vk.Recorder, t *vk.Tensor) error {
	if t.Address()%4 == 0 && uint64(t.Elements())*t.DType().Bytes()%4 == 0 {
		rec.Fill(t, 0)
		return rec.Err()
	}
	zeros := rec.Scratch(vk.F32, t.Shape()...)
	defer rec.Release(zeros)
	rec.Fill(zeros, 0)
	if rec.Err() != nil {
		return rec.Err()
	}
	return moe.Convert(rec, zeros, t)
}

func checkEmbedBackward(rec *vk.Recorder, op string, ids, dy, dTable *vk.Tensor) error {
	err := check.First(check.Storage(op, "dy", dy), check.Storage(op, "dTable", dTable), check.Rank(op, "dTable", dTable, 2),
		check.Rank(op, "ids", ids, 1))
	if err != nil {
		return err
	}
	tokens, width := ids.Dim(0), dTable.Dim(1)
	err = check.First(
		check.Tensor(rec.Device(), op, "ids", ids, vk.I32, tokens),
		check.Tensor(rec.Device(), op, "dy", dy, dy.DType(), tokens, width),
		check.Tensor(rec.Device(), op, "dTable", dTable, dTable.DType(), dTable.Shape()...),
		check.Apart(op, "dTable", dTable, check.Inputs{"ids": ids, "dy": dy}),
	)
	switch {
	case err != nil:
	case embeddingBackwardKernels[[2]vk.DType{dy.DType(), dTable.DType()}] == nil:
		err = &vk.ShapeError{Op: op, Arg: "dTable", Want: dy.DType().String() + " or f32", Got: dTable.String()}
	case rec.Device().Adapter().Type == vk.Software && tokens > maxSoftwareTokens:
		err = &vk.ShapeError{Op: op, Arg: "ids", Want: "at most 65535 tokens on a software device", Got: ids.String()}
	}
	return err
}
