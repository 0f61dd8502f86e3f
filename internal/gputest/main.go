// Package gputest holds what tests of kernels share: tensors inside guard bands, poisoned outputs, comparison with the
// oracle.
package gputest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	_ "pgregory.net/rapid" // has the flag rapid.seed

	"github.com/vkmoe/vkmoe/vk"
)

// Main runs a package's tests with a device, which it opens for them: nil where there is none and none is required. It is
// what TestMain calls, and does not return.
func Main(m *testing.M, dev **vk.Device) {
	if os.Getenv("CI") != "" { // random shapes are for people at their desks: a build says the same every time
		if err := flag.Set("rapid.seed", "1"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	var err error
	*dev, err = vk.Open(vk.Options{NoCache: true, TraceLeaks: true})
	switch {
	case err == nil:
		a := (*dev).Adapter()
		fmt.Printf("device: %s, %s %s\n", a.Name, a.DriverName, a.DriverInfo)
	case absent(err):
		fmt.Println("tests that need a device are skipped:", err)
	default:
		fmt.Println(err)
		os.Exit(1)
	}
	code := m.Run()
	if *dev != nil {
		if err := (*dev).Close(); err != nil {
			fmt.Println(err)
			code = 1
		}
	}
	os.Exit(code)
}
