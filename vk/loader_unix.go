//go:build !windows

package vk

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"runtime"
	"unsafe"
)

// librarySymbol opens a shared library and returns the address of one of its functions.
func librarySymbol(library, symbol string) (unsafe.Pointer, error) {
	// dlerror tells about the calling thread's last call.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	name := C.CString(library)
	defer C.free(unsafe.Pointer(name))
	handle := C.dlopen(name, C.RTLD_NOW|C.RTLD_LOCAL)
	if handle == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	function := C.CString(symbol)
	defer C.free(unsafe.Pointer(function))
	address := C.dlsym(handle, function)
	if address == nil {
		C.dlclose(handle)
		return nil, errors.New("it has no " + symbol)
	}
	return address, nil
}
