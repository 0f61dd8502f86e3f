#!/usr/bin/env bash
# drivers.sh [NAME…] unpacks Vulkan drivers and the validation layer into .drivers (or VKMOE_DRIVERS_DIR), for
# with-driver.sh to run programs on. Without a NAME it does all of them. It prints each one's name and version.
# The system's own drivers are used where they are what is asked for, and never changed.
# Exit codes: 0 all are there, 3 one cannot be had on this machine (the reason is printed; the others are done).
set -euo pipefail
. "$(dirname "$0")/apt.sh"

drivers=${VKMOE_DRIVERS_DIR:-$repo_root/.drivers}
all="lavapipe-22.3 lavapipe-25.0 lavapipe-26.2 swiftshader radv validation"

# write_manifest FILE LIBRARY: the loader's description of a driver, with the full path of its library.
write_manifest() {
	cat >"$1" <<-JSON
		{"file_format_version": "1.0.0", "ICD": {"library_path": "$2", "api_version": "1.3.0"}}
	JSON
}

# keep_libraries NAME ROOT: makes the libraries of the unpacked ROOT the folder lib of driver NAME.
keep_libraries() {
	rm -rf "${drivers:?}/$1"
	mkdir -p "$drivers/$1"
	mv "$2/usr/lib/$triplet" "$drivers/$1/lib"
	mv "$2/packages" "$drivers/$1/packages"
	# Only lavapipe and RADV are run; the other drivers of the package are large.
	find "$drivers/$1/lib" -name 'libvulkan_*.so' ! -name libvulkan_lvp.so ! -name libvulkan_radeon.so -delete
}

# drop_c_library NAME: leaves the C and C++ run time to the system, whose programs load this driver.
drop_c_library() {
	(cd "$drivers/$1/lib" && rm -rf ld-linux* libc.so* libm.so* libmvec.so* libdl.so* libpthread.so* librt.so* \
		libresolv.so* libutil.so* libanl.so* libnss_* libnsl.so* libthread_db.so* libBrokenLocale.so* \
		libc_malloc_debug.so* libmemusage.so libpcprofile.so libpthread* libgcc_s.so* libstdc++.so* \
		libvulkan.so* gconv audit)
}

mesa_version() { sed -nE 's/^mesa-vulkan-drivers\t//p' "$drivers/$1/packages"; }

lavapipe_22_3() {
	local installed library=/usr/lib/$triplet/libvulkan_lvp.so
	installed=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null || true)
	if [[ $installed == 22.3.* && -e $library ]]; then
		rm -rf "$drivers/lavapipe-22.3"
		mkdir -p "$drivers/lavapipe-22.3"
		printf 'mesa-vulkan-drivers\t%s\n' "$installed (the system's)" >"$drivers/lavapipe-22.3/packages"
	else
		apt_open "$work/apt" bookworm
		apt_unpack "$work/root" mesa-vulkan-drivers
		keep_libraries lavapipe-22.3 "$work/root"
		drop_c_library lavapipe-22.3
		library=$drivers/lavapipe-22.3/lib/libvulkan_lvp.so
	fi
	write_manifest "$drivers/lavapipe-22.3/icd.json" "$library"
}

lavapipe_25_0() {
	apt_open "$work/apt" bookworm bookworm-backports
	apt_unpack "$work/root" -t bookworm-backports mesa-vulkan-drivers
	keep_libraries lavapipe-25.0 "$work/root"
	drop_c_library lavapipe-25.0
	write_manifest "$drivers/lavapipe-25.0/radv.json" "$drivers/lavapipe-25.0/lib/libvulkan_radeon.so"
	write_manifest "$drivers/lavapipe-25.0/icd.json" "$drivers/lavapipe-25.0/lib/libvulkan_lvp.so"
}

# Debian sid's Mesa needs sid's C library: with-driver.sh starts a program through the loader kept here.
lavapipe_26_2() {
	apt_open "$work/apt" sid
	apt_unpack "$work/root" mesa-vulkan-drivers libvulkan1 libc6
	keep_libraries lavapipe-26.2 "$work/root"
	write_manifest "$drivers/lavapipe-26.2/icd.json" "$drivers/lavapipe-26.2/lib/libvulkan_lvp.so"
}

# chromium unpacks the browser's package, which holds SwiftShader and a current validation layer.
chromium() {
	local lib=usr/lib/chromium
	apt_open "$work/apt" bookworm
	apt_unpack_only "$work/root" chromium-common
	for name in swiftshader validation; do
		rm -rf "${drivers:?}/$name"
		mkdir -p "$drivers/$name"
		cp "$work/root/packages" "$drivers/$name"
	done
	mv "$work/root/$lib/libvk_swiftshader.so" "$drivers/swiftshader"
	write_manifest "$drivers/swiftshader/icd.json" "$drivers/swiftshader/libvk_swiftshader.so"
	mv "$work/root/$lib/libVkLayer_khronos_validation.so" "$drivers/validation"
	cat >"$drivers/validation/VkLayer_khronos_validation.json" <<-JSON
		{"file_format_version": "1.2.0", "layer": {
		  "name": "VK_LAYER_KHRONOS_validation", "type": "GLOBAL",
		  "library_path": "$drivers/validation/libVkLayer_khronos_validation.so",
		  "api_version": "1.4.0", "implementation_version": "1", "description": "Khronos validation layer",
		  "instance_extensions": [
		    {"name": "VK_EXT_debug_report", "spec_version": "9"},
		    {"name": "VK_EXT_debug_utils", "spec_version": "2"},
		    {"name": "VK_EXT_layer_settings", "spec_version": "2"},
		    {"name": "VK_EXT_validation_features", "spec_version": "6"}]}}
	JSON
}

# manifest NAME: the file that the Vulkan loader is given for NAME.
manifest() {
	case $1 in
	radv) echo "$drivers/lavapipe-25.0/radv.json" ;;
	validation) echo "$drivers/validation/VkLayer_khronos_validation.json" ;;
	*) echo "$drivers/$1/icd.json" ;;
	esac
}

# ready NAME: whether its manifest names a library that exists (a moved checkout's does not).
ready() {
	local m library
	m=$(manifest "$1")
	[ -f "$m" ] && library=$(sed -nE 's/.*"library_path": "([^"]+)".*/\1/p' "$m") && [ -e "$library" ]
}

assemble() {
	work=$(mktemp -d "$drivers/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	say "unpacking $1"
	case $1 in
	lavapipe-22.3) lavapipe_22_3 ;;
	lavapipe-25.0 | radv) lavapipe_25_0 ;;
	lavapipe-26.2) lavapipe_26_2 ;;
	swiftshader | validation) chromium ;;
	esac
	ready "$1"
}

if [ $# -ne 1 ]; then
	status=0
	# shellcheck disable=SC2086
	for name in ${*:-$all}; do
		"$0" "$name" || status=$?
	done
	exit $status
fi

case " $all " in
*" $1 "*) ;;
*)
	say "no driver $1; there are: $all"
	exit 2
	;;
esac
lock "$drivers/lock"
drivers=$(cd "$drivers" && pwd)
ready "$1" || assemble "$1"
case $1 in
radv) echo "radv mesa $(mesa_version lavapipe-25.0)" ;;
lavapipe-*) echo "$1 mesa $(mesa_version "$1")" ;;
*) echo "$1 chromium $(sed -nE 's/^chromium-common\t//p' "$drivers/$1/packages")" ;;
esac
