package main

import (
	"slices"
	"strings"
)

// A variant is one SPIR-V module: a stem, which names the source, and the macros it is compiled with. What a
// specialization constant can set is no variant.
type variant struct {
	stem   string
	name   string   // dtype and path, "" when the stem has one variant only
	macros []string // "NAME" or "NAME=VALUE"
}

// variants lists every kernel of the library, stems in alphabetical order.
var variants = slices.Concat(
	storages("activation"),
	storages("activation_backward"),
	storages("adamw"),
	widened("adamw"),
	storages("combine"),
	storages("combine_backward"),
	conversions("convert"),
	plain("coopmat_places"),
	storages("copy_heads"),
	storages("cross_entropy"),
	storages("embedding"),
	storages("embedding_backward"),
	widening("embedding_backward"),
	plain("expert_histogram", "expert_scatter"),
	storages("flash_attention"),
	storages("flash_attention_backward_kv"),
	storages("flash_attention_backward_kv_coopmat")[1:],
	storages("flash_attention_backward_q"),
	storages("flash_attention_backward_q_coopmat")[1:],
	storages("flash_attention_coopmat")[1:],
	storages("flash_attention_delta"),
	plain("flash_attention_sinks_backward"),
	storages("flash_merge"),
	plain("fma_peak"),
	plain("global_norm"),
	storages("group_sum"),
	widening("group_sum"),
	storages("group_xty"),
	widening("group_xty"),
	storages("group_xty_coopmat")[1:],
	widening("group_xty_coopmat"),
	storages("jitter"),
	plain("kv_advance"),
	storages("kv_append"),
	plain("loss_mean"),
	storages("matrix_peak")[1:],
	plain("positions"),
	quantized("quantize"),
	storages("rms_norm"),
	weighted("rms_norm"),
	storages("rms_norm_backward"),
	weighted("rms_norm_backward"),
	storages("rms_norm_weight"),
	widening("rms_norm_weight"),
	storages("rope"),
	plain("router_losses", "router_losses_backward", "router_stats", "router_stats_sum"),
	plain("sampling"),
	storages("scaled_add"),
	storages("scatter2scatter"),
	mixed("scatter2scatter"),
	quantized("scatter2scatter"),
	storages("scatter2scatter_coopmat")[1:],
	quantized("scatter2scatter_coopmat")[2:],
	storages("scatter2scatter_gemv"),
	mixed("scatter2scatter_gemv"),
	quantized("scatter2scatter_gemv"),
	storages("square_sum"),
	storages("sum_heads"),
	plain("target_count", "token_links"),
	plain("topk_gates", "topk_gates_backward"),
)

// plain are stems with one variant each.
func plain(stems ...string) []variant {
	var list []variant
	for _, stem := range stems {
		list = append(list, variant{stem: stem})
	}
	return list
}

// storages are the variants of a stem whose operands are all of the storage dtype: f32, f16, bf16.
func storages(stem string) []variant {
	return []variant{
		{stem: stem, name: "f32", macros: []string{"STORAGE_F32"}},
		{stem: stem, name: "f16", macros: []string{"STORAGE_F16"}},
		{stem: stem, name: "bf16", macros: []string{"STORAGE_BF16"}},
	}
}

// conversions are the 16-bit variants of a stem with either the input or the output in f32, named input_output.
func conversions(stem string) []variant {
	return []variant{
		{stem: stem, name: "f32_f16", macros: []string{"STORAGE_F16", "INPUT_F32"}},
		{stem: stem, name: "f16_f32", macros: []string{"STORAGE_F16", "OUTPUT_F32"}},
		{stem: stem, name: "f32_bf16", macros: []string{"STORAGE_BF16", "INPUT_F32"}},
		{stem: stem, name: "bf16_f32", macros: []string{"STORAGE_BF16", "OUTPUT_F32"}},
	}
}

// widening are the 16-bit variants of a stem whose output is f32, named input_output.
func widening(stem string) []variant {
	return []variant{
		{stem: stem, name: "f16_f32", macros: []string{"STORAGE_F16", "OUTPUT_F32"}},
		{stem: stem, name: "bf16_f32", macros: []string{"STORAGE_BF16", "OUTPUT_F32"}},
	}
}

// weighted are the 16-bit variants of a stem whose weights are f32, named storage_weights.
func weighted(stem string) []variant {
	return []variant{
		{stem: stem, name: "f16_f32", macros: []string{"STORAGE_F16", "INPUT_F32"}},
		{stem: stem, name: "bf16_f32", macros: []string{"STORAGE_BF16", "INPUT_F32"}},
	}
}

// widened are the 16-bit variants of a stem whose input is f32, named input_storage.
func widened(stem string) []variant {
	return []variant{
		{stem: stem, name: "f32_f16", macros: []string{"STORAGE_F16", "INPUT_F32"}},
		{stem: stem, name: "f32_bf16", macros: []string{"STORAGE_BF16", "INPUT_F32"}},
	}
}

// mixed are the 16-bit variants of a stem with the input, the output or both in f32, named input_storage_output.
func mixed(stem string) []variant {
	return []variant{
		{stem: stem, name: "f32_f16_f16", macros: []string{"STORAGE_F16", "INPUT_F32"}},
		{stem: stem, name: "f16_f16_f32", macros: []string{"STORAGE_F16", "OUTPUT_F32"}},
		{stem: stem, name: "f32_f16_f32", macros: []string{"STORAGE_F16", "INPUT_F32", "OUTPUT_F32"}},
		{stem: stem, name: "f32_bf16_bf16", macros: []string{"STORAGE_BF16", "INPUT_F32"}},
		{stem: stem, name: "bf16_bf16_f32", macros: []string{"STORAGE_BF16", "OUTPUT_F32"}},
		{stem: stem, name: "f32_bf16_f32", macros: []string{"STORAGE_BF16", "INPUT_F32", "OUTPUT_F32"}},
	}
}

// quantized are the variants of a stem with quantized weights, by the storage of the other operands, named storage_format.
func quantized(stem string) []variant {
	var list []variant
	for _, v := range storages(stem) {
		for _, format := range []string{"int8", "q4"} {
			list = append(list, variant{stem: stem, name: v.name + "_" + format,
				macros: append(v.macros[:1:1], "WEIGHTS_"+strings.ToUpper(format))})
		}
	}
	return list
}

// options are the compiler's for every variant. SPIR-V 1.5 is what Vulkan 1.2 guarantees.
var options = []string{"--target-env", "vulkan1.2", "--quiet"}

// file is the variant's name in file names and in kernels.go's tables: "stem" or "stem.variant".
func (v variant) file() string {
	if v.name == "" {
		return v.stem
	}
	return v.stem + "." + v.name
}

// goName is the variant's exported Go name, for example Scatter2scatterF32.
func (v variant) goName() string { return camel(v.stem) + camel(v.name) }

// arguments are the compiler's arguments that decide what comes out.
func (v variant) arguments() []string {
	args := append([]string(nil), options...)
	for _, m := range v.macros {
		args = append(args, "-D"+m)
	}
	return args
}

// camel turns snake_case into CamelCase.
func camel(s string) string {
	out := make([]byte, 0, len(s))
	up := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_':
			up = true
		case up && c >= 'a' && c <= 'z':
			out = append(out, c-'a'+'A')
			up = false
		default:
			out = append(out, c)
			up = false
		}
	}
	return string(out)
}
