package vk

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoaderNames(t *testing.T) {
	none := func(string) string { return "" }
	require.Equal(t, []string{"libvulkan.so.1", "libvulkan.so"}, loaderNames("linux", none))
	require.Equal(t, []string{"vulkan-1.dll"}, loaderNames("windows", none))
	mac := loaderNames("darwin", none)
	require.Equal(t, []string{"libvulkan.1.dylib", "libvulkan.dylib", "libMoltenVK.dylib"}, mac[:3])
	require.Contains(t, mac, filepath.Join("/opt/homebrew/lib", "libMoltenVK.dylib"))

	sdk := func(name string) string { return map[string]string{"VULKAN_SDK": "/sdk"}[name] }
	require.Contains(t, loaderNames("darwin", sdk), filepath.Join("/sdk", "lib", "libvulkan.1.dylib"))
	other := func(name string) string { return map[string]string{loaderVariable: "mine.so"}[name] }
	for _, goos := range []string{"linux", "windows", "darwin", "freebsd"} {
		require.Equal(t, []string{"mine.so"}, loaderNames(goos, other), goos)
	}
}

func TestHintsNameSomethingToInstall(t *testing.T) {
	for _, goos := range []string{"linux", "windows", "darwin", "freebsd"} {
		require.Contains(t, loaderHint(goos), "install", goos)
		require.Contains(t, deviceHint(goos), "install", goos)
	}
}

func TestNoLoader(t *testing.T) {
	const library = "/nonexistent/libvulkan.so.1"
	if !inChild(t, loaderVariable+"="+library) {
		return
	}
	for range 2 { // a failure is not remembered, and does not turn into another one
		_, err := Adapters()
		require.ErrorIs(t, err, ErrNoLoader)
		require.ErrorContains(t, err, library)
		require.ErrorContains(t, err, loaderHint(runtime.GOOS))
	}
	_, err := Open(Options{})
	require.ErrorIs(t, err, ErrNoLoader)
}

func TestLoaderIsNoLibrary(t *testing.T) {
	file := filepath.Join(os.TempDir(), "vkmoe-no-library.so")
	if inChild(t, loaderVariable+"="+file) {
		require.NoError(t, os.WriteFile(file, []byte("no library"), 0o600))
		defer os.Remove(file)
		_, err := Adapters()
		require.ErrorIs(t, err, ErrNoLoader)
		require.ErrorContains(t, err, file)
	}
}

func TestLibraryWithoutVulkan(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs a Linux library")
	}
	if inChild(t, loaderVariable+"=libm.so.6") {
		_, err := Adapters()
		require.ErrorIs(t, err, ErrNoLoader)
		require.ErrorContains(t, err, "it has no vkGetInstanceProcAddr")
	}
}

func TestNoDriver(t *testing.T) {
	if !inChild(t, "VK_DRIVER_FILES=/nonexistent.json", "VK_ICD_FILENAMES=/nonexistent.json", "VK_ADD_DRIVER_FILES=") {
		return
	}
	_, err := Adapters()
	require.ErrorIs(t, err, ErrNoDevice)
	require.ErrorContains(t, err, deviceHint(runtime.GOOS))
	_, err = Open(Options{})
	require.ErrorIs(t, err, ErrNoDevice)
}
