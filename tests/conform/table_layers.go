package conform

import (
	"github.com/vkmoe/vkmoe/attention"
	"github.com/vkmoe/vkmoe/moe"
)

// plainRoPE turns so many elements of a head.
func plainRoPE(width int) *attention.RoPEConfig {
	return &attention.RoPEConfig{Width: width, Base: 10000}
}

// selfAttentionCases are layers of released models, narrower. Configurations that the required list takes, here and below, have heads
// of one width, so that a CPU driver compiles fewer kernels; others have other widths.
func selfAttentionCases(add func(Case)) {
	names := []string{"mixtral", "qwen2", "qwen3", "olmoe", "gpt_oss", "encoder", "interleaved"}
	configs := []selfConfig{
		{attention.SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 2, HeadWidth: 16, Causal: true}, &attention.RoPEConfig{Width: 16, Base: 1e6}},
		{attention.SelfAttentionConfig{Width: 24, Heads: 3, KVHeads: 3, HeadWidth: 16, Causal: true, Bias: true}, plainRoPE(8)},
		{attention.SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 1, HeadWidth: 16, Causal: true, QKNorm: attention.NormHead, Eps: 1e-6},
			plainRoPE(12)},
		{attention.SelfAttentionConfig{Width: 32, Heads: 4, KVHeads: 2, HeadWidth: 8, Causal: true, QKNorm: attention.NormRow, Eps: 1e-5},
			plainRoPE(8)},
		{attention.SelfAttentionConfig{Width: 32, Heads: 8, KVHeads: 2, HeadWidth: 16, Causal: true, Bias: true, OutputBias: true, Sinks: true,
			Window: 8}, &attention.RoPEConfig{Width: 16, Base: 150000, Scaling: attention.ScaleYaRN, Factor: 32, OriginalPositions: 4096,
			NoTruncate: true, BetaFast: 32, BetaSlow: 1}},
		{attention.SelfAttentionConfig{Width: 15, Heads: 3, KVHeads: 1, HeadWidth: 7, SoftCap: 3, Scale: 0.5}, nil},
		{attention.SelfAttentionConfig{Width: 9, Heads: 2, KVHeads: 2, HeadWidth: 6, Causal: true, QKNorm: attention.NormHead, Eps: 1e-6},
			&attention.RoPEConfig{Width: 6, Base: 10000, Interleaved: true}},
	}
	layerCases(add, "self_attention", names, func(i int) layer { return configs[i] })
}

// mlaCases are latent attentions with and without a latent of the queries.
func mlaCases(add func(Case)) {
	configs := []mlaConfig{
		{attention.MLAConfig{Width: 32, Heads: 4, QueryRank: 24, KVRank: 32, PlainWidth: 8, TurnedWidth: 8, ValueWidth: 16, Eps: 1e-6,
			Causal: true}, attention.RoPEConfig{Width: 8, Base: 10000, Interleaved: true}},
		{attention.MLAConfig{Width: 20, Heads: 3, QueryRank: 8, KVRank: 12, PlainWidth: 10, TurnedWidth: 6, ValueWidth: 16, Eps: 1e-6,
			Causal: true, Bias: true, Window: 9}, attention.RoPEConfig{Width: 6, Base: 10000, Interleaved: true, Scaling: attention.ScaleYaRN,
			Factor: 40, OriginalPositions: 4096, MScale: 1, MScaleAllDim: 1, BetaFast: 32, BetaSlow: 1}},
		{attention.MLAConfig{Width: 16, Heads: 2, KVRank: 9, PlainWidth: 12, TurnedWidth: 4, ValueWidth: 16, Eps: 1e-5, Causal: true},
			*plainRoPE(4)},
		{attention.MLAConfig{Width: 13, Heads: 3, QueryRank: 5, KVRank: 9, PlainWidth: 7, TurnedWidth: 4, ValueWidth: 11, Eps: 1e-5},
			*plainRoPE(4)},
	}
	layerCases(add, "mla", []string{"deepseek_v3", "yarn", "one_query", "odd_widths"}, func(i int) layer { return configs[i] })
}

// mixtureCases are mixtures of attention: JetMoE's, one choice, all experts, and everything else that a layer can have.
func mixtureCases(add func(Case)) {
	configs := []mixtureConfig{
		{attention.MixtureConfig{Experts: 8, TopK: 2, HeadsPerExpert: 2, HeadWidth: 16, Width: 24, Mode: moe.TopKSoftmax, OutputBias: true,
			Causal: true}, plainRoPE(16)},
		{attention.MixtureConfig{Experts: 4, TopK: 1, HeadsPerExpert: 3, HeadWidth: 16, Width: 15, Causal: true, Window: 6, Sinks: true},
			plainRoPE(4)},
		{attention.MixtureConfig{Experts: 3, TopK: 3, HeadsPerExpert: 1, HeadWidth: 16, Width: 12, Causal: true, ExpertBias: true,
			Mode: moe.SoftmaxTopKNorm}, nil},
		{attention.MixtureConfig{Experts: 16, TopK: 4, HeadsPerExpert: 2, HeadWidth: 33, Width: 40, RouterBias: true, QueryBias: true,
			KeyValueBias: true, InOut: true, GateScale: 2.5, SoftCap: 4, Scale: 0.4, Mode: moe.SigmoidTopKNorm}, plainRoPE(8)},
	}
	layerCases(add, "mixture", []string{"jetmoe", "one_choice", "all_experts", "biases"}, func(i int) layer { return configs[i] })
}
