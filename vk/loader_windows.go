package vk

import (
	"errors"
	"syscall"
	"unsafe"
)

// librarySymbol opens a shared library and returns the address of one of its functions.
func librarySymbol(library, symbol string) (unsafe.Pointer, error) {
	dll, err := syscall.LoadDLL(library)
	if err != nil {
		return nil, err
	}
	function, err := dll.FindProc(symbol)
	if err != nil {
		dll.Release()
		return nil, errors.New("it has no " + symbol)
	}
	// The address lies in the library, not in Go's heap: there is nothing a garbage collection could move.
	address := function.Addr()
	return *(*unsafe.Pointer)(unsafe.Pointer(&address)), nil
}
