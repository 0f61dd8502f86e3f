package shaders

// attentionDefaults are those of package attention's kernels.
var attentionDefaults = map[string][]uint32{
	"coopmat_places":                      DefaultCoopmatPlacesSpec().Values(),
	"flash_attention":                     DefaultFlashAttentionSpec().Values(),
	"flash_attention_backward_kv_coopmat": DefaultFlashAttentionBackwardKvCoopmatSpec().Values(),
	"flash_attention_backward_q_coopmat":  DefaultFlashAttentionBackwardQCoopmatSpec().Values(),
	"flash_attention_coopmat":             DefaultFlashAttentionCoopmatSpec().Values(),
	"flash_attention_backward_kv":         DefaultFlashAttentionBackwardKvSpec().Values(),
	"flash_attention_backward_q":          DefaultFlashAttentionBackwardQSpec().Values(),
	"flash_attention_delta":               DefaultFlashAttentionDeltaSpec().Values(),
	"flash_attention_sinks_backward":      DefaultFlashAttentionSinksBackwardSpec().Values(),
	"flash_merge":                         DefaultFlashMergeSpec().Values(),
	"kv_advance":                          DefaultKvAdvanceSpec().Values(),
	"kv_append":                           DefaultKvAppendSpec().Values(),
}
