package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/tests/golden"
)

// architectures are the recorded models' folders, by the names that the README has for them.
var architectures = []struct{ name, folder string }{
	{"Mixtral", "mixtral"}, {"OLMoE", "olmoe"}, {"Qwen2-MoE", "qwen2moe"}, {"Qwen3-MoE", "qwen3moe"}, {"Granite MoE", "granitemoe"},
	{"JetMoE", "jetmoe"}, {"gpt-oss", "gptoss"}, {"DeepSeek-V3", "deepseekv3"},
}

// worstErrors reads what golden --json has printed: by folder and part, the largest relative error.
func worstErrors(t *testing.T, file string) map[string]float64 {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var report struct {
		Failed int
		Models []struct {
			Name    string
			Tensors []struct {
				Part  string
				Error float64 `json:"relative_error"`
			}
		}
	}
	require.NoError(t, json.Unmarshal(data, &report))
	require.Zero(t, report.Failed)
	worst := map[string]float64{}
	for _, m := range report.Models {
		for _, x := range m.Tensors {
			worst[m.Name+x.Part] = math.Max(worst[m.Name+x.Part], x.Error)
		}
	}
	return worst
}

// TestReadmeHoldsTheRecordedAgreement holds the README's table to doc/conformance, where vkmoe-conform golden --json was kept.
func TestReadmeHoldsTheRecordedAgreement(t *testing.T) {
	const folder = "../../doc/conformance/"
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	worst := worstErrors(t, folder+"golden-lavapipe-22.3-f32.json")
	var table strings.Builder
	for _, a := range architectures {
		fmt.Fprintf(&table, "| %s |", a.name)
		for _, part := range []golden.Part{golden.MLP, golden.Attention, golden.Logits, golden.Grads} {
			require.Positive(t, worst[a.folder+string(part)], "%s of %s", part, a.folder)
			fmt.Fprintf(&table, " %s |", brief(worst[a.folder+string(part)]))
		}
		table.WriteString("\n")
	}
	require.Contains(t, string(readme), table.String())

	for dtype, said := range map[string]float64{"f16": 8e-4, "bf16": 6.1e-3} {
		most := 0.0
		for _, v := range worstErrors(t, folder+"golden-lavapipe-22.3-"+dtype+".json") {
			most = math.Max(most, v)
		}
		require.InEpsilon(t, said, most, 0.05, "the README's words on %s", dtype)
	}
}

// brief writes 2.5e-07 as 2.5e-7.
func brief(v float64) string { return strings.Replace(fmt.Sprintf("%.1e", v), "e-0", "e-", 1) }
