package xtest

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// A program's first goroutine starts on the main thread, which window systems want; here it stays there.
func init() { runtime.LockOSThread() }

var onMain = make(chan func())

// Main is the body of a TestMain: it runs the tests in another goroutine and keeps the main thread for OnMain.
func Main(m *testing.M) {
	code := make(chan int)
	go func() { code <- m.Run() }()
	for {
		select {
		case f := <-onMain:
			f()
		case c := <-code:
			os.Exit(c)
		}
	}
}

// OnMain runs f on the main thread and returns when it has.
func OnMain(f func()) {
	done := make(chan struct{})
	onMain <- func() {
		defer close(done)
		f()
	}
	<-done
}

const aloneVariable = "VKMOE_TEST_ALONE"

// Alone runs the calling test once more in a process of its own, because a process has one connection to one screen for good.
// It returns true in that process, where the test goes on, and false in the first one, where the test ends as the other did.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(aloneVariable) != "" {
		return true
	}
	Skip(t)
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	// Argument 0, not the executable's path: the test may have been started through another run-time linker.
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run="+pattern)
	cmd.Env = append(os.Environ(), aloneVariable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}
