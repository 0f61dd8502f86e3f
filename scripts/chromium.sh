#!/usr/bin/env bash
# chromium.sh unpacks Debian's Chromium, with what it depends on, into .drivers/chromium and prints the program's path, for the
# test of the conformance report's page:
#
#   VKMOE_CHROMIUM=$(scripts/chromium.sh) go test ./tests/conform/report
#
# A chromium of the system's is used where there is one. Exit code 3: it cannot be had on this machine.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

if command -v chromium; then
	exit 0
fi
drivers=${VKMOE_DRIVERS_DIR:-$repo_root/.drivers}
lock "$drivers/chromium.lock"
drivers=$(cd "$drivers" && pwd)
program=$drivers/chromium/run
if [ ! -x "$program" ]; then
	work=$(mktemp -d "$drivers/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	say "unpacking chromium"
	apt_open "$work/apt" bookworm
	apt_unpack "$work/root" chromium
	rm -rf "$drivers/chromium"
	mkdir -p "$drivers/chromium"
	mv "$work/root/usr" "$drivers/chromium/usr"
	# The C library is the system's, which is Debian 12 too where this browser runs.
	(cd "$drivers/chromium/usr/lib/$triplet" && rm -f libc.so* libm.so* libdl.so* libpthread.so* librt.so* libresolv.so* libgcc_s.so*)
	cat >"$program" <<-WRAPPER
		#!/bin/sh
		lib=$drivers/chromium/usr/lib/$triplet
		export LD_LIBRARY_PATH=\$lib:\$lib/pulseaudio
		exec $drivers/chromium/usr/lib/chromium/chromium "\$@"
	WRAPPER
	chmod +x "$program"
fi
"$program" --version >/dev/null 2>&1 || unobtainable "the unpacked chromium does not run here"
echo "$program"
