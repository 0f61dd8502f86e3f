package golden

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/model"
)

// TestDeviceReproducesWholeModels runs the recorded models from tokens to loss and back on the device.
func TestDeviceReproducesWholeModels(t *testing.T) {
	opts := openDevice(t)
	opts.Only = []Part{Logits, Grads}
	for _, name := range recorded {
		report := Run(t.Context(), filepath.Join(dataDir, name), opts)
		worst := map[Part]float64{}
		for _, tensor := range report.Models[0].Tensors {
			require.True(t, tensor.Pass, "%s %+v", name, tensor)
			worst[tensor.Part] = max(worst[tensor.Part], tensor.Error)
		}
		require.Equal(t, ExitPass, report.Exit(), "%s %+v", name, report.Models[0])
		t.Logf("%s: logits and loss %.3g, worst of %d gradients %.3g", name, worst[Logits], len(report.Models[0].Tensors)-2, worst[Grads])
	}
}

// spoiledDecoder changes what a model's run gives.
type spoiledDecoder struct {
	Device
	spoil func(*DecoderRun)
}

func (s spoiledDecoder) RunDecoder(ctx context.Context, c *model.Checkpoint, ids, offsets []int32, grads bool) (*DecoderRun, error) {
	run, err := s.Device.RunDecoder(ctx, c, ids, offsets, grads)
	if err == nil {
		s.spoil(run)
	}
	return run, err
}

func TestJudgeOfWholeModelsFindsFaults(t *testing.T) {
	opts := openDevice(t)
	runner, info, err := opts.Open()
	require.NoError(t, err)
	for fault, spoil := range map[string]func(*DecoderRun){
		"a logit":        func(r *DecoderRun) { r.Logits[7] += 0.01 },
		"the loss":       func(r *DecoderRun) { r.Loss *= 1.0001 },
		"too few logits": func(r *DecoderRun) { r.Logits = r.Logits[1:] },
		"a norm's gradient": func(r *DecoderRun) {
			for i := range r.Grads["model.norm.weight"] {
				r.Grads["model.norm.weight"][i] *= 1.001
			}
		},
		"no gradient of experts": func(r *DecoderRun) {
			for name := range r.Fused {
				if strings.HasSuffix(name, ".up") {
					delete(r.Fused, name)
				}
			}
		},
		"a gradient too many": func(r *DecoderRun) {
			if r.Grads != nil {
				r.Grads["model.extra"] = []float32{1}
			}
		},
	} {
		opts.Only = []Part{Logits, Grads}
		opts.Open = func() (Runner, *DeviceInfo, error) { return spoiledDecoder{runner.(Device), spoil}, info, nil }
		report := Run(t.Context(), filepath.Join(dataDir, "mixtral"), opts)
		require.Equal(t, ExitFail, report.Exit(), fault)
	}
}

// TestWholeModelsNeedRecords asks for gradients of a folder without them.
func TestWholeModelsNeedRecords(t *testing.T) {
	dir := copyModel(t, "mixtral")
	require.NoError(t, os.Remove(filepath.Join(dir, gradsFile)))
	opts := openDevice(t)
	report := Run(t.Context(), dir, opts)
	require.Equal(t, ExitPass, report.Exit(), "%+v", report.Models[0])
	require.Len(t, report.Models[0].Unsupported, 1)
	opts.Only = []Part{Grads}
	require.Equal(t, ExitUnusable, Run(t.Context(), dir, opts).Exit())
}
