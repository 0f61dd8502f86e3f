#!/usr/bin/env bash
# test.sh DRIVER… builds every package's tests once and runs those that use a Vulkan device on each driver, the first
# with the validation layer, and the others once. Drivers are with-driver.sh's names. Failing tests' output is shown and a table of
# what ran where ends it. A driver's name with +short appended runs go test's short form there, with +vk package vk only, which is
# what the conformance suite (scripts/conform.sh) does not test.
#
# A driver that cannot be had on this machine is listed as not run; with VKMOE_REQUIRE_DRIVERS=1 it is a failure.
# The whole output of each run stays in out/test.
# VKMOE_TEST_FLAGS holds more flags for the test binaries, such as "-test.run Topk -test.short".
set -euo pipefail
cd "$(dirname "$0")/.."

drivers=("$@")
out=$PWD/out/test
rm -rf "$out"
mkdir -p "$out"
export VKMOE_REQUIRE_GPU=1
passed=0 failed=0 skipped=0
short=() # flags of the driver at hand

# row DRIVER PACKAGE PASSED FAILED SKIPPED SECONDS adds a line to the table.
row() { printf '%-32s %-20s %7s %7s %8s %8s\n' "$@" >>"$out/table"; }

finish() {
	echo
	cat "$out/table"
	echo
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ]
}

row driver package passed failed skipped seconds
module=$(go list -m)
tags=$(scripts/tags.sh)
go list -tags "$tags" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... | grep . >"$out/packages"
go list -tags "$tags" -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... |
	awk -v vk="$module/vk" '$1 ~ /\.test$/ { for (i = 2; i <= NF; i++) if ($i == vk) print $1 }' >"$out/device"

# Packages may share a last name, so each binary is called after its whole path.
while read -r package folder; do
	binary=$out/$(echo "${package#"$module"}" | tr / _).test
	if ! go test -tags "$tags" -c -o "$binary" "$package"; then
		row "(build)" "${package#"$module"/}" 0 1 0 -
		failed=$((failed + 1))
	fi
done <"$out/packages"

# run_package LABEL PACKAGE FOLDER COMMAND…: runs the package's tests in their folder, by COMMAND BINARY.
run_package() {
	local label=$1 package=${2#"$module"/} folder=$3 binary log status=0 start=$SECONDS p f s
	binary=$out/$(echo "${2#"$module"}" | tr / _).test
	shift 3
	log=$binary.$label.log
	[ -x "$binary" ] || return 0
	echo "testing $package on $label"
	# shellcheck disable=SC2086
	(cd "$folder" && "$@" "$binary" -test.v=test2json -test.timeout=20m "${short[@]}" ${VKMOE_TEST_FLAGS:-}) \
		>"$log" 2>&1 </dev/null || status=$?
	awk -v STATUS="$status" -v COUNTS="$out/counts" -f scripts/summarize.awk "$log" >"$out/failures"
	read -r p f s <"$out/counts"
	if [ "$f" -gt 0 ]; then
		echo "--- $package on $label:"
		cat "$out/failures"
	fi
	row "$label" "$package" "$p" "$f" "$s" $((SECONDS - start))
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

uses_device() { grep -qxF "$1.test" "$out/device"; }

while read -r package folder; do
	uses_device "$package" || run_package "(no device)" "$package" "$folder" env
done <"$out/packages"

for label in "${drivers[@]}"; do
	driver=${label%%+*}
	short=()
	[ "$label" != "$driver+short" ] || short=(-test.short)
	only=
	[ "$label" != "$driver+vk" ] || only=$module/vk
	unset VKMOE_VALIDATION
	if [ "$label" = "${drivers[0]}" ] && scripts/drivers.sh validation >/dev/null; then
		export VKMOE_VALIDATION=1
		label="$label+validation"
	fi
	# The cheapest program there is tells whether the driver can be had.
	status=0
	scripts/with-driver.sh "$driver" "$(type -P true)" || status=$?
	if [ $status -ne 0 ]; then
		row "$label" "(not run)" - - - -
		[ $status -eq 3 ] && [ -z "${VKMOE_REQUIRE_DRIVERS:-}" ] || failed=$((failed + 1))
		continue
	fi
	while read -r package folder; do
		if uses_device "$package" && [ "${only:-$package}" = "$package" ]; then
			run_package "$label" "$package" "$folder" "$PWD/scripts/with-driver.sh" "$driver"
		fi
	done <"$out/packages"
done
finish
