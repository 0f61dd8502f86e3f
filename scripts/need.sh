#!/usr/bin/env bash
# need.sh [window] makes sure that this machine can build vkmoe and has a Vulkan driver, and is silent when it can.
# What is missing is installed by apt-get, as root or through a sudo that asks nothing; otherwise the command to
# give is printed and the exit code is 1, or 0 where only the window's headers are missing: everything but the window
# can be built then. Nothing that is installed already is changed. With "window" it also wants what the window's tests
# need: a screen without hardware, a window manager, a keyboard and a mouse.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "need.sh: $*" >&2; }

command -v go >/dev/null || {
	say "Go is missing; $(sed -nE 's/^go (.*)/version \1 or newer/p' go.mod) is needed"
	exit 1
}
[ "$(uname -s)" = Linux ] || exit 0

packages=()

# compiles SOURCE FLAG…: whether the C compiler builds the given program.
compiles() {
	local source=$1
	shift
	printf '%b' "$source" | cc -x c - -o /dev/null "$@" 2>/dev/null
}

compiles '#include <stdlib.h>\nint main(void) { return 0; }\n' || packages+=(gcc libc6-dev)

PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -q 'libvulkan\.so\.1 ' || packages+=(libvulkan1)

# A driver is whatever the Vulkan loader would find: named by the environment or described in one of its folders.
has_driver() {
	[ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
	local folder
	for folder in "${XDG_DATA_HOME:-$HOME/.local/share}" /etc /usr/local/etc /usr/local/share /usr/share; do
		compgen -G "$folder/vulkan/icd.d/*.json" >/dev/null && return 0
	done
	return 1
}
has_driver || packages+=(mesa-vulkan-drivers)

# Only the window needs X11.
required=${#packages[@]}
[ -n "$(scripts/tags.sh)" ] ||
	packages+=(libgl1-mesa-dev libx11-dev libxcursor-dev libxi-dev libxinerama-dev libxrandr-dev libxxf86vm-dev)
if [ "${1:-}" = window ]; then
	while read -r program package; do
		command -v "$program" >/dev/null || packages+=("$package")
	done <<<"Xvfb xvfb
jwm jwm
xdotool xdotool
xrdb x11-xserver-utils"
	required=${#packages[@]}
fi

[ ${#packages[@]} -gt 0 ] || exit 0
install="apt-get install -y --no-install-recommends ${packages[*]}"
as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if ! command -v apt-get >/dev/null || { [ -n "$as_root" ] && ! $as_root true 2>/dev/null; }; then
	say "this machine lacks ${packages[*]} (names of Debian's packages). Where there is apt:"
	say "    sudo $install"
	[ "$required" -gt 0 ] || say "without them everything but the window is built"
	exit $((required > 0))
fi
say "installing ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# A stale package list is tried too when it cannot be renewed.
$as_root apt-get update -q >"$log" 2>&1 || say "apt-get update failed; trying the lists there are"
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive $install >>"$log" 2>&1 || {
	tail -n 15 "$log" >&2
	say "could not install them; the command was: $install"
	exit 1
}
