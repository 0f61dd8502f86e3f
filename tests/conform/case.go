package conform

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vkmoe/vkmoe/vk"
)

// A Case is one test of the suite.
type Case struct {
	Name string

	// Required cases are the ones that a driver has to pass in a short time: every operation, dtype, path and layout once.
	Required bool

	// Needs are features without which the device cannot be asked for the case.
	Needs []vk.Feature

	// Limit is how long the case may take where that is less than the run's limit; 0 leaves it at that.
	Limit time.Duration

	// Record makes the case's tensors and records its work into k.Rec. What it returns is called once after the run and
	// reports through k what is wrong. It may be nil for a case that only has to run.
	Record func(k *Kit) func()
}

// family makes the cases of one operation.
type family func(add func(Case))

// families lists every operation of the suite. An operation is added here.
var families = []family{
	linearForward, linearMixed, linearDecode, linearQuantized, linearCoopMat, linearBackward, linearCoopMatBackward, linearAuto, linearActivated, denseLinear,
	routingCases, topKCases, topKUnusual, topKBackwardCases,
	activationCases, activationUnusual, combineCases, convertCases, jitterCases,
	statsCases, lossCases, mlpForward, mlpBackward,
	flashCases, flashCoopMat, normCases, ropeCases,
	selfAttentionCases, mlaCases, mixtureCases, cacheCases,
	embeddingCases, crossEntropyCases, scaledAddCases, samplingCases, adamCases, quantizeCases, ceilingCases, placesCases,
	selfTests,
}

// selfTestPrefix begins the names of cases that test the suite itself: some crash, hang or fail on purpose. No glob
// selects them unless it begins with this prefix itself.
const selfTestPrefix = "selftest."

var table = sync.OnceValue(func() []Case {
	var list []Case
	seen := map[string]bool{}
	for _, f := range families {
		f(func(c Case) {
			if seen[c.Name] || !validName.MatchString(c.Name) {
				panic(fmt.Sprintf("conform: case name %q is taken or malformed", c.Name))
			}
			seen[c.Name] = true
			list = append(list, c)
		})
	}
	slices.SortFunc(list, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return list
})

var validName = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)

// Cases returns all cases by name.
func Cases() []Case { return slices.Clone(table()) }

// Find returns the case of a name.
func Find(name string) (Case, bool) {
	i, found := slices.BinarySearchFunc(table(), name, func(c Case, name string) int { return strings.Compare(c.Name, name) })
	if !found {
		return Case{}, false
	}
	return table()[i], true
}

// seedOf is a case's own seed: it depends on the base seed and the name only, so that a case computes with the same data
// alone and among others.
func seedOf(base uint64, name string) int64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", base, name)
	return int64(h.Sum64() >> 1)
}
