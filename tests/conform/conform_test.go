package conform

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vkmoe/vkmoe/internal/gputest"
	"github.com/vkmoe/vkmoe/internal/ref"
	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// TestTheTableIsLargeAndStable: names are those of the committed required list, so that a case cannot vanish from it or be
// renamed unnoticed.
func TestTheTableIsLargeAndStable(t *testing.T) {
	cases, err := Select(Selection{})
	require.NoError(t, err)
	require.Greater(t, len(cases), 3000)
	required, err := Select(Selection{Required: true})
	require.NoError(t, err)
	var names strings.Builder
	for _, c := range required {
		fmt.Fprintln(&names, c.Name)
		require.NotNil(t, c.Record)
	}
	committed, err := os.ReadFile("required.txt")
	require.NoError(t, err)
	require.Equal(t, string(committed), names.String(), "after a change of the list: vkmoe-conform list --required > tests/conform/required.txt")
	for _, c := range cases {
		require.False(t, strings.HasPrefix(c.Name, selfTestPrefix))
	}
}

func TestTheRequiredListHasEveryOperationDTypeAndPath(t *testing.T) {
	kind := func(name string) string {
		parts := strings.Split(name, ".")
		key := parts[0] + "." + parts[1]
		if key == "router.losses" { // of the modes one of each kind
			return fmt.Sprint(key, parts[2], strings.HasPrefix(parts[3], "sigmoid"))
		}
		for _, p := range parts[2:] {
			if p == "coopmat" || p == "f32" || p == "f16" || p == "bf16" || strings.Contains(p, "f16_") || strings.Contains(p, "softmax") ||
				strings.Contains(p, "sigmoid") {
				key += "." + p
			}
		}
		// mlp's modes vary with its activations; gradients are required all together; jitter's and dense's modes are their names.
		if parts[0] == "mlp" {
			key = strings.Join(append(parts[:2:2], parts[2]), ".")
		}
		return key
	}
	have := map[string]bool{}
	for _, c := range Cases() {
		if c.Required {
			have[kind(c.Name)] = true
		}
	}
	for _, c := range Cases() {
		k := kind(c.Name)
		if strings.HasPrefix(k, selfTestPrefix) {
			continue
		}
		for _, op := range gradients[:4] { // backward_all computes them all at once; dx by matrices is its own
			if !strings.Contains(k, "coopmat") {
				k = strings.Replace(k, "backward_"+op, "backward_all", 1)
			}
		}
		require.True(t, have[k], "no case like %s is required", c.Name)
	}
}

func TestSelection(t *testing.T) {
	names := func(s Selection) []string {
		list, err := Select(s)
		require.NoError(t, err)
		var out []string
		for _, c := range list {
			out = append(out, c.Name)
		}
		return out
	}
	all := names(Selection{Include: []string{"routing.group"}})
	require.Equal(t, all, names(Selection{Include: []string{"routing.group.*"}}))
	require.Greater(t, len(all), 50)
	one := []string{"routing.group.e8_k2_t5.one"}
	require.Equal(t, one, names(Selection{Include: one}))
	require.Equal(t, one, names(Selection{Include: []string{"routing.group.e?_k2_t5.one"}}))
	require.NotContains(t, names(Selection{Include: []string{"routing"}, Exclude: []string{"*.invalid"}}), "routing.group.e8_k2_t5.invalid")
	require.Contains(t, names(Selection{Include: []string{"selftest"}}), "selftest.crash")
	require.Equal(t, []string{"selftest.crash"}, names(Selection{Include: []string{"selftest.crash"}}))
	require.NotContains(t, names(Selection{Include: []string{"*"}}), "selftest.crash")
	_, err := Select(Selection{Include: []string{"routing.grupo"}})
	require.ErrorContains(t, err, "routing.grupo")

	var parts []string
	for i := range 7 {
		shard, err := ParseShard(fmt.Sprintf("%d/7", i+1))
		require.NoError(t, err)
		part := names(Selection{Include: []string{"routing"}, Shard: shard})
		require.InDelta(t, len(all)/7, len(part), 1)
		parts = append(parts, part...)
	}
	slices.Sort(parts)
	require.Equal(t, all, parts, "shards hold every case once")
	for _, text := range []string{"0/3", "4/3", "1", "a/b", "1/2/3", ""} {
		_, err := ParseShard(text)
		require.Error(t, err, text)
	}
}

func TestSeedsAreOfTheCaseAlone(t *testing.T) {
	require.Equal(t, seedOf(1, "a"), seedOf(1, "a"))
	require.NotEqual(t, seedOf(1, "a"), seedOf(2, "a"))
	require.NotEqual(t, seedOf(1, "a"), seedOf(1, "b"))
}

// TestFaultsAreWellDescribed holds the table of faults to the kernels and cases there are, and to the list that the suite has
// to find.
func TestFaultsAreWellDescribed(t *testing.T) {
	kinds := map[string]bool{}
	for _, f := range Faults() {
		kind, _, _ := strings.Cut(f.Name, ".")
		kinds[kind] = true
		require.True(t, slices.ContainsFunc(shaders.All, func(k *vk.Kernel) bool { return k.Name() == f.Kernel }), f.Name)
		require.NotEmpty(t, f.Description)
		list, err := Select(Selection{Include: f.Cases})
		require.NoError(t, err, f.Name)
		require.NotEmpty(t, list)
		blob, err := faultFiles.ReadFile("faults/" + f.Name + ".spv")
		require.NoError(t, err)
		k, err := vk.NewKernel(f.Name, blob)
		require.NoError(t, err)
		for _, own := range shaders.All {
			require.NotEqual(t, own.SPIRV(), k.SPIRV(), "a fault's module is one of the library's")
		}
	}
	for _, kind := range []string{"skip_last_row", "ignore_k_tail", "swap_two_experts", "drop_barrier", "read_past_end", "wrong_gate",
		"accumulate_twice", "nan_swallowed", "nondeterministic_order"} {
		require.True(t, kinds[kind], kind)
	}
	require.ErrorContains(t, Plant("no_such_fault"), "no_such_fault")
}

func TestWaivers(t *testing.T) {
	d := Device{Name: "Quartz 9", VendorID: "0x10de", Driver: "stone", DriverInfo: "Mesa 22.3.6 (LLVM 15)"}
	base := Waiver{Cases: "a.b", Reason: "known", Link: "link"}
	with := func(change func(w *Waiver)) Waiver {
		w := base
		change(&w)
		return w
	}
	for name, c := range map[string]struct {
		w    Waiver
		fits bool
	}{
		"case":           {base, true},
		"another case":   {with(func(w *Waiver) { w.Cases = "a.c" }), false},
		"vendor":         {with(func(w *Waiver) { w.Vendor = "0x10DE" }), true},
		"another vendor": {with(func(w *Waiver) { w.Vendor = "0x1002" }), false},
		"device":         {with(func(w *Waiver) { w.Device = "Quartz*" }), true},
		"another device": {with(func(w *Waiver) { w.Device = "Marble*" }), false},
		"another driver": {with(func(w *Waiver) { w.Driver = "sand" }), false},
		"from":           {with(func(w *Waiver) { w.From = "22.3.0" }), true},
		"later":          {with(func(w *Waiver) { w.From = "22.4" }), false},
		"to":             {with(func(w *Waiver) { w.To = "22.3" }), true},
		"earlier":        {with(func(w *Waiver) { w.To = "21.9.9" }), false},
	} {
		for _, status := range Statuses {
			r := Result{Name: "a.b.c", Status: status}
			Waive(&r, []Waiver{c.w}, d)
			require.Equal(t, c.fits && status.Bad(), r.Status == Waived && status != Waived, "%s %s", name, status)
		}
	}
	write := func(text string) string {
		path := t.TempDir() + "/waivers.json"
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	list, err := ReadWaivers(write(`[{"cases": "x.*", "vendor": "0x10de", "reason": "r", "link": "l"}]`))
	require.NoError(t, err)
	require.Len(t, list, 1)
	for _, bad := range []string{`[{"cases": "x", "reason": "r"}]`, `[{"cases": "x", "reason": "r", "link": "l", "vendro": "1"}]`, `{}`,
		`[{"cases": "x", "reason": "r", "link": "l", "vendor": "nvidia"}]`, `[] []`} {
		_, err := ReadWaivers(write(bad))
		require.Error(t, err, bad)
	}
}

func TestHistogram(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	got := []float32{1, 1.0001, 1.5, 3, 1e9, float32(nan), float32(nan), float32(inf)}
	want := []float64{1, 1, 1, 1, 1, 1, nan, 1}
	bins := histogram(got, want, []float64{1})
	sum := 0
	for _, n := range bins {
		sum += n
	}
	require.Equal(t, len(got), sum)
	require.Equal(t, 2, bins[0], "equal values, NaN among them")
	require.Equal(t, 2, bins[len(bins)-1], "not finite")
	require.Equal(t, 1, bins[len(bins)-2], "above")
}

func TestBudgets(t *testing.T) {
	list := []Compiled{{Kernel: "a", VGPRs: 40, LDS: 100}, {Kernel: "a", VGPRs: 30, LDS: 200}, {Kernel: "b", VGPRs: 8}}
	b := BudgetsOf(list)
	require.Equal(t, Budgets{"a": {40, 200}, "b": {8, 0}}, b)
	require.Empty(t, b.Over(list))
	for name, c := range map[string]Compiled{
		"VGPRs": {Kernel: "a", VGPRs: 41}, "shared memory": {Kernel: "a", LDS: 201}, "spilled": {Kernel: "b", Spills: 1},
		"scratch": {Kernel: "b", Scratch: 4}, "no budget": {Kernel: "c"}, "lost its way": {Kernel: "a", Error: "lost its way"},
	} {
		over := b.Over([]Compiled{c})
		require.Len(t, over, 1, name)
		require.Contains(t, over[0], name)
	}
}

// openDevice opens the device of a test, which is skipped where there is none.
func openDevice(t *testing.T) *vk.Device {
	t.Helper()
	return gputest.Open(t, vk.Options{NoCache: true})
}

// TestRequiredCases runs the required list, or in short mode every sixth of it, in this process.
func TestRequiredCases(t *testing.T) {
	dev := openDevice(t)
	cases, err := Select(Selection{Required: true})
	require.NoError(t, err)
	if testing.Short() {
		cases, err = Select(Selection{Required: true, Shard: Shard{1, 6}})
		require.NoError(t, err)
	}
	passed := 0
	for _, c := range cases {
		r := Run(t.Context(), dev, c, Options{Seed: 1})
		switch r.Status {
		case Pass:
			passed++
		case Unsupported:
			require.NotEmpty(t, r.Reason, c.Name)
		default:
			t.Errorf("%s: %s: %s", c.Name, r.Status, r.Reason)
		}
	}
	require.Greater(t, passed, len(cases)*3/4, "only cooperative matrices may be missing")
}

// TestEveryCheckFindsItsFault runs cases that break one rule each.
func TestEveryCheckFindsItsFault(t *testing.T) {
	dev := openDevice(t)
	run := func(record func(k *Kit) func()) Result {
		return Run(context.Background(), dev, Case{Name: "selftest.rule", Record: record}, Options{Seed: 1, Evidence: t.TempDir()})
	}
	copied := func(k *Kit) (x, y *vk.Tensor) {
		x, y = k.F32("x", []float32{1, 2, 3, 4}, 4), k.Output("y", vk.F32, 4)
		k.Rec.Copy(y, x)
		return x, y
	}
	for check, record := range map[string]func(k *Kit) func(){
		CheckOracle: func(k *Kit) func() {
			_, y := copied(k)
			return func() { k.Close("y", y, []float64{1, 2, 3, 5}, []float64{1e-6}) }
		},
		CheckUnwritten: func(k *Kit) func() { k.Output("y", vk.F32, 4); return nil },
		CheckInput: func(k *Kit) func() {
			x, _ := copied(k)
			k.Rec.Fill(x, 0)
			return nil
		},
		CheckGuard: func(k *Kit) func() {
			copied(k)
			b := k.bands[1]
			past, err := b.root.View(b.front+4, 1)
			k.must(err)
			k.Rec.Fill(past, 0)
			return nil
		},
		CheckRepeat: func(k *Kit) func() {
			y := k.Output("y", vk.F32, 4)
			k.Rec.Fill(y, uint32(k.flavor))
			return nil
		},
		CheckError: func(k *Kit) func() {
			copied(k)
			k.must(errors.New("refused"))
			return nil
		},
	} {
		r := run(record)
		require.Equal(t, Fail, r.Status, "%s: %+v", check, r)
		require.Equal(t, check, r.Failures[0].Check, "%+v", r)
		require.FileExists(t, r.Evidence+"/result.json")
	}
	require.Equal(t, Pass, run(func(k *Kit) func() {
		_, y := copied(k)
		return func() { k.Close("y", y, ref.Widen([]float32{1, 2, 3, 4}), nil) }
	}).Status)
	r := run(func(k *Kit) func() { k.must(&vk.UnsupportedError{Feature: "wings", Need: "flight"}); return nil })
	require.Equal(t, Unsupported, r.Status)
	require.Contains(t, r.Reason, "wings")
	r = run(func(k *Kit) func() { k.must(vk.ErrDeviceLost); return nil })
	require.Equal(t, Lost, r.Status)
	r = run(func(*Kit) func() { panic("a mistake in a case") })
	require.Equal(t, Fail, r.Status)
	require.Contains(t, r.Reason, "a mistake in a case")
}
