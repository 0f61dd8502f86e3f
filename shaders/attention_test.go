package shaders

// attentionDefaults are those of package attention's kernels.
var attentionDefaults = map[string][]uint32{
	"flash_attention": DefaultFlashAttentionSpec().Values(),
	"flash_merge":     DefaultFlashMergeSpec().Values(),
}
