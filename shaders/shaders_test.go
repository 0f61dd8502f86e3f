package shaders

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPushBytesFollowTheReflectedLayout writes a mark into each member and looks for it at the reflected offset.
func TestPushBytesFollowTheReflectedLayout(t *testing.T) {
	fan := Scatter2scatterPush{X: 0x0102030405060708, TileArgs: 0x1112131415161718, FanIn: 0x21222324, Flags: 7}
	b := fan.Bytes()
	require.Len(t, b, int(Scatter2scatterF32.PushBytes))
	marks := map[string]uint64{"x": fan.X, "tile_args": fan.TileArgs, "fan_in": uint64(fan.FanIn), "flags": 7}
	for _, f := range Scatter2scatterF32.Push {
		got := uint64(binary.LittleEndian.Uint32(b[f.Offset:]))
		if f.Size == 8 {
			got = binary.LittleEndian.Uint64(b[f.Offset:])
		}
		require.Equal(t, marks[f.Name], got, f.Name)
	}
}

func TestDefaultSpecsAreTheReflectedDefaults(t *testing.T) {
	for _, k := range All {
		want := make([]uint32, len(k.Spec))
		for i, c := range k.Spec {
			want[i] = c.Default
		}
		require.Equal(t, want, defaults(k.Stem), k.Name())
	}
}

func defaults(stem string) []uint32 {
	switch stem {
	case "activation":
		return DefaultActivationSpec().Values()
	case "activation_backward":
		return DefaultActivationBackwardSpec().Values()
	case "combine_backward":
		return DefaultCombineBackwardSpec().Values()
	case "quantize":
		return DefaultQuantizeSpec().Values()
	case "group_sum":
		return DefaultGroupSumSpec().Values()
	case "group_xty":
		return DefaultGroupXtySpec().Values()
	case "combine":
		return DefaultCombineSpec().Values()
	case "fma_peak":
		return DefaultFmaPeakSpec().Values()
	case "matrix_peak":
		return DefaultMatrixPeakSpec().Values()
	case "convert":
		return DefaultConvertSpec().Values()
	case "expert_histogram":
		return DefaultExpertHistogramSpec().Values()
	case "expert_scatter":
		return DefaultExpertScatterSpec().Values()
	case "group_xty_coopmat":
		return DefaultGroupXtyCoopmatSpec().Values()
	case "jitter":
		return DefaultJitterSpec().Values()
	case "copy_heads":
		return DefaultCopyHeadsSpec().Values()
	case "sum_heads":
		return DefaultSumHeadsSpec().Values()
	case "positions":
		return DefaultPositionsSpec().Values()
	case "rms_norm":
		return DefaultRmsNormSpec().Values()
	case "rms_norm_backward":
		return DefaultRmsNormBackwardSpec().Values()
	case "rms_norm_weight":
		return DefaultRmsNormWeightSpec().Values()
	case "rope":
		return DefaultRopeSpec().Values()
	case "router_losses":
		return DefaultRouterLossesSpec().Values()
	case "router_losses_backward":
		return DefaultRouterLossesBackwardSpec().Values()
	case "router_stats":
		return DefaultRouterStatsSpec().Values()
	case "router_stats_sum":
		return DefaultRouterStatsSumSpec().Values()
	case "scatter2scatter":
		return DefaultScatter2scatterSpec().Values()
	case "scatter2scatter_coopmat":
		return DefaultScatter2scatterCoopmatSpec().Values()
	case "scatter2scatter_gemv":
		return DefaultScatter2scatterGemvSpec().Values()
	case "topk_gates":
		return DefaultTopkGatesSpec().Values()
	case "topk_gates_backward":
		return DefaultTopkGatesBackwardSpec().Values()
	}
	if values, ok := attentionDefaults[stem]; ok {
		return values
	}
	return modelDefaults[stem]
}

// modelDefaults are those of package model's kernels.
var modelDefaults = map[string][]uint32{
	"adamw":              DefaultAdamwSpec().Values(),
	"cross_entropy":      DefaultCrossEntropySpec().Values(),
	"embedding":          DefaultEmbeddingSpec().Values(),
	"embedding_backward": DefaultEmbeddingBackwardSpec().Values(),
	"global_norm":        DefaultGlobalNormSpec().Values(),
	"loss_mean":          DefaultLossMeanSpec().Values(),
	"sampling":           DefaultSamplingSpec().Values(),
	"scaled_add":         DefaultScaledAddSpec().Values(),
	"square_sum":         DefaultSquareSumSpec().Values(),
	"target_count":       DefaultTargetCountSpec().Values(),
	"token_links":        DefaultTokenLinksSpec().Values(),
}

func TestWordsAreDecodedOnce(t *testing.T) {
	a, b := TopkGates.SPIRV(), TopkGates.SPIRV()
	require.Equal(t, reflect.ValueOf(a).Pointer(), reflect.ValueOf(b).Pointer())
}
