package vk

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	vulkan "github.com/vulkan-go/vulkan"
)

// loaderVariable names another loader library than the system's. It is then the only one tried.
const loaderVariable = "VKMOE_LOADER"

// loader is the process's Vulkan loader. A library is opened once and never closed: drivers start threads that outlive
// the last instance.
var loader struct {
	sync.Mutex
	getInstanceProcAddr unsafe.Pointer
}

// openLoader returns vkGetInstanceProcAddr of the first loader library found and has given it to vulkan-go. A failure
// is not remembered: the next call searches again.
//
// vulkan-go's own search opens libvulkan.so only, a name that comes with the development package; systems that just run
// Vulkan have libvulkan.so.1.
func openLoader() (unsafe.Pointer, error) {
	loader.Lock()
	defer loader.Unlock()
	if loader.getInstanceProcAddr != nil {
		return loader.getInstanceProcAddr, nil
	}
	names := loaderNames(runtime.GOOS, os.Getenv)
	var failures []string
	for _, name := range names {
		symbol, err := librarySymbol(name, "vkGetInstanceProcAddr")
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s (%v)", name, err))
			continue
		}
		vulkan.SetGetInstanceProcAddr(symbol)
		if err := vulkan.Init(); err != nil {
			failures = append(failures, fmt.Sprintf("%s (%v)", name, err))
			continue
		}
		loader.getInstanceProcAddr = symbol
		return symbol, nil
	}
	return nil, fmt.Errorf("%w: tried %s; %s", ErrNoLoader, strings.Join(failures, ", "), loaderHint(runtime.GOOS))
}

// loaderNames lists the libraries to try on an operating system, best first.
func loaderNames(goos string, getenv func(string) string) []string {
	if name := getenv(loaderVariable); name != "" {
		return []string{name}
	}
	switch goos {
	case "windows":
		return []string{"vulkan-1.dll"}
	case "darwin":
		base := []string{"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"}
		names := append([]string(nil), base...)
		// The dynamic linker looks into none of these by itself.
		var folders []string
		if sdk := getenv("VULKAN_SDK"); sdk != "" {
			folders = append(folders, filepath.Join(sdk, "lib"))
		}
		for _, folder := range append(folders, "/opt/homebrew/lib", "/usr/local/lib") {
			for _, name := range base {
				names = append(names, filepath.Join(folder, name))
			}
		}
		return names
	default:
		return []string{"libvulkan.so.1", "libvulkan.so"}
	}
}

// loaderHint says how to get a Vulkan loader.
func loaderHint(goos string) string {
	switch goos {
	case "windows":
		return "install the GPU vendor's current driver, which brings vulkan-1.dll"
	case "darwin":
		return "install the Vulkan SDK for macOS, or MoltenVK (brew install molten-vk vulkan-loader)"
	case "freebsd":
		return "install vulkan-loader and a driver (pkg install vulkan-loader mesa-dri)"
	default:
		return "install it with: apt install libvulkan1 mesa-vulkan-drivers (Debian, Ubuntu), " +
			"dnf install vulkan-loader mesa-vulkan-drivers (Fedora), " +
			"pacman -S vulkan-icd-loader vulkan-swrast (Arch); on an NVIDIA machine the driver brings the device"
	}
}

// deviceHint says how to get a device when there is a loader.
func deviceHint(goos string) string {
	switch goos {
	case "windows":
		return "install the GPU vendor's current driver"
	case "darwin":
		return "install MoltenVK (brew install molten-vk)"
	default:
		return "install the GPU's Vulkan driver, or lavapipe, which runs on the CPU: " +
			"apt install mesa-vulkan-drivers (Debian, Ubuntu), dnf install mesa-vulkan-drivers (Fedora), " +
			"pacman -S vulkan-swrast (Arch); VK_DRIVER_FILES or VK_ICD_FILENAMES may point elsewhere"
	}
}
