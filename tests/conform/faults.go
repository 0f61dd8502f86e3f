package conform

import (
	"embed"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/vkmoe/vkmoe/shaders"
	"github.com/vkmoe/vkmoe/vk"
)

// A FaultDef is a fault that can be planted in a kernel to see whether the suite finds it: the kernel's sources with one text
// replaced, compiled beside the library's own. faults/faults.json lists them.
type FaultDef struct {
	Name        string   `json:"name"`
	Kernel      string   `json:"kernel"`
	Description string   `json:"description"`
	Cases       []string `json:"cases"` // globs of cases that use the kernel in a way in which the fault shows
}

//go:embed faults/faults.json faults/*.spv
var faultFiles embed.FS

var faultTable = sync.OnceValue(func() []FaultDef {
	text, err := faultFiles.ReadFile("faults/faults.json")
	var list []FaultDef
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil {
		panic(fmt.Sprintf("conform: the embedded table of faults: %v", err))
	}
	return list
})

// Faults lists the faults.
func Faults() []FaultDef { return append([]FaultDef(nil), faultTable()...) }

// FindFault returns the fault of a name.
func FindFault(name string) (FaultDef, error) {
	for _, f := range faultTable() {
		if f.Name == name {
			return f, nil
		}
	}
	return FaultDef{}, fmt.Errorf("there is no fault %q; vkmoe-conform faults lists them", name)
}

// Plant puts a fault into its kernel for the rest of the process. It must be called before a device is opened.
func Plant(name string) error {
	f, err := FindFault(name)
	if err != nil {
		return err
	}
	blob, err := faultFiles.ReadFile("faults/" + f.Name + ".spv")
	if err != nil {
		return err
	}
	faulty, err := vk.NewKernel(f.Name, blob)
	if err != nil {
		return err
	}
	for _, k := range shaders.All {
		if k.Name() != f.Kernel {
			continue
		}
		if faulty.PushBytes != k.PushBytes || len(faulty.Spec) != len(k.Spec) {
			return fmt.Errorf("fault %s was made of another version of %s", f.Name, f.Kernel)
		}
		k.SPIRV = faulty.SPIRV
		return nil
	}
	return fmt.Errorf("fault %s: there is no kernel %s", f.Name, f.Kernel)
}
