package spirv

import (
	"fmt"
	"maps"
	"slices"
)

// Descriptors names the variables that are bound through descriptor sets, in the order of their ids; one without a name is
// "%id".
func (m *Module) Descriptors() []string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(m.descriptors)) {
		name := m.names[id]
		if name == "" {
			name = fmt.Sprintf("%%%d", id)
		}
		names = append(names, name)
	}
	return names
}
