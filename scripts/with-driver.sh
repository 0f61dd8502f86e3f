#!/usr/bin/env bash
# with-driver.sh NAME COMMAND… runs COMMAND on one Vulkan driver, which drivers.sh unpacks first where it is missing:
#
#   lavapipe-22.3, lavapipe-25.0   a CPU driver; with -sg4 or -sg16 appended its subgroup size is that instead of 8
#   lavapipe-26.2                  the same with cooperative matrices; COMMAND must be a compiled program
#   swiftshader                    the poorest device
#   radv:FAMILY                    AMD's compiler without hardware (polaris10, vega10, navi10, navi21, navi31, gfx1201)
#   system                         whatever the system has
#
# The Vulkan loader is also told of a current validation layer, where drivers.sh has unpacked one or VKMOE_VALIDATION is set.
# It suits go's -exec flag: go test -exec "scripts/with-driver.sh swiftshader" ./vk
set -euo pipefail

usage() {
	sed -nE '2,/^set/{/^set/!s/^# ?//p}' "$0" >&2
	exit 2
}

[ $# -ge 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
drivers=${VKMOE_DRIVERS_DIR:-$here/../.drivers}
name=$1
shift

if [[ $name =~ ^(lavapipe-.*)-sg([0-9]+)$ ]]; then
	name=${BASH_REMATCH[1]}
	export LP_NATIVE_VECTOR_WIDTH=$((BASH_REMATCH[2] * 32))
	# Mesa 22.3 keeps compiled shaders of all widths under one name, and crashes running those of another.
	export MESA_SHADER_CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/vkmoe-mesa-sg${BASH_REMATCH[2]}
fi

case $name in
system) ;;
radv:*)
	"$here/drivers.sh" radv >/dev/null
	export RADV_FORCE_FAMILY=${name#radv:}
	folder=lavapipe-25.0 manifest=radv.json
	;;
*)
	"$here/drivers.sh" "$name" >/dev/null
	folder=$name manifest=icd.json
	;;
esac
if [ -n "${VKMOE_VALIDATION:-}" ]; then
	"$here/drivers.sh" validation >/dev/null
fi
if [ -d "$drivers/validation" ]; then
	VK_LAYER_PATH=$(cd "$drivers/validation" && pwd)
	# Debian 12's Vulkan loader would refuse the instance extensions of a layer newer than itself.
	export VK_LAYER_PATH VK_LOADER_DISABLE_INST_EXT_FILTER=1
fi

if [ "$name" = system ]; then
	exec "$@"
fi
folder=$(cd "$drivers/$folder" && pwd)
# Older loaders know only the second name. Mesa's device-selection layer would hide devices.
export VK_DRIVER_FILES=$folder/$manifest VK_ICD_FILENAMES=$folder/$manifest NODEVICE_SELECT=1

loader=$(find "$folder" -name 'ld-linux*.so.*' -print -quit)
if [ -z "$loader" ]; then
	if [ -d "$folder/lib" ]; then
		export LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
	fi
	exec "$@"
fi

# This driver brings its own C library, so the program is started through that library's loader, by a script that
# stands in for it as its argument 0: a program that starts os.Args[0] again gets the same driver.
program=$(type -P "$1") || {
	echo "with-driver.sh: $1: not found" >&2
	exit 127
}
program=$(readlink -f "$program")
shift
verified=0
"$loader" --verify "$program" >/dev/null 2>&1 || verified=$?
case $verified in
0 | 2) ;;
*)
	echo "with-driver.sh: $name runs dynamically linked programs only, which $program is not:" \
		"build it first, or use go run -exec and go test -exec" >&2
	exit 2
	;;
esac
run=$(mktemp -d "$folder/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
stand_in=$run/$(basename "$program")
cat >"$stand_in" <<-SCRIPT
	#!/bin/sh
	exec "$loader" --library-path "$folder/lib" --argv0 "\$0" "$program" "\$@"
SCRIPT
chmod +x "$stand_in"
status=0
"$stand_in" "$@" || status=$?
exit $status
