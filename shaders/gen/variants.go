package main

// A variant is one SPIR-V module: a stem, which names the source, and the macros it is compiled with. What a
// specialization constant can set is no variant.
type variant struct {
	stem   string
	name   string   // dtype and path, "" when the stem has one variant only
	macros []string // "NAME" or "NAME=VALUE"
}

// variants lists every kernel of the library, stems in alphabetical order.
var variants = []variant{
	{stem: "activation", name: "f32", macros: []string{"STORAGE_F32"}},
	{stem: "combine", name: "f32", macros: []string{"STORAGE_F32"}},
	{stem: "expert_histogram"},
	{stem: "expert_scan"},
	{stem: "expert_scatter"},
	{stem: "jitter"},
	{stem: "router_losses"},
	{stem: "router_losses_backward"},
	{stem: "router_stats"},
	{stem: "router_stats_sum"},
	{stem: "scatter2scatter", name: "f32", macros: []string{"STORAGE_F32"}},
	{stem: "topk_gates"},
	{stem: "topk_gates_backward"},
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
