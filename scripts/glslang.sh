#!/usr/bin/env bash
# glslang.sh puts glslangValidator (16 or newer) and spirv-val (2025 or newer) into .tools/bin.
#
# A system's own pair is used when it is new enough. Otherwise Debian sid's packages are unpacked into .tools/glslang
# and run through their own loader and C library, so that an older Debian can use them too.
# Exit codes: 0 both are there, 3 they cannot be had on this machine.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

min_glslang=16   # cooperative matrices, bfloat16
min_spirv=2025   # the validator that knows what such a glslang writes
tools=${VKMOE_TOOLS_DIR:-$repo_root/.tools}

# major PROGRAM PATTERN: the first number after PATTERN in PROGRAM's version text, 0 when it does not run.
major() {
	local v
	v=$({ "$1" --version 2>/dev/null || true; } | sed -nE "s/.*$2([0-9]+).*/\1/p" | head -n 1)
	echo "${v:-0}"
}

# new_enough BIN…: whether the glslangValidator and spirv-val given are.
new_enough() {
	[ "$(major "$1" 'Glslang Version: [0-9]+:')" -ge $min_glslang ] &&
		[ "$(major "$2" 'SPIRV-Tools v')" -ge $min_spirv ]
}

ready() { [ -x "$tools/bin/spirv-val" ] && new_enough "$tools/bin/glslangValidator" "$tools/bin/spirv-val"; }

ready && exit 0
lock "$tools/lock"
ready && exit 0

mkdir -p "$tools/bin"
if new_enough glslangValidator spirv-val; then
	for p in glslangValidator spirv-val; do
		ln -sf "$(command -v $p)" "$tools/bin/$p"
	done
	exit 0
fi

work=$(mktemp -d "$tools/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "unpacking glslang ≥ $min_glslang from Debian sid"
apt_open "$work/apt" sid
apt_unpack "$work/root" glslang-tools spirv-tools libc6
rm -rf "$tools/glslang"
mkdir "$tools/glslang"
mv "$work/root/usr/bin" "$work/root/usr/lib/$triplet" "$work/root/packages" "$tools/glslang"
mv "$tools/glslang/$triplet" "$tools/glslang/lib"

for p in glslangValidator spirv-val; do
	rm -f "$tools/bin/$p"
	cat >"$tools/bin/$p" <<-WRAPPER
		#!/bin/sh
		# Runs the unpacked $p with the loader and libraries it was built for.
		root=\$(dirname "\$(readlink -f "\$0")")/../glslang
		exec "\$root"/lib/ld-linux*.so.* --library-path "\$root/lib" "\$root/bin/$p" "\$@"
	WRAPPER
	chmod +x "$tools/bin/$p"
done
ready || unobtainable "the unpacked glslang does not run here"
