#!/usr/bin/env bash
# test.sh DRIVER… builds every package's tests once and runs those that use a Vulkan device on each driver, the first
# with the validation layer, and the others once. Drivers are with-driver.sh's names. Failing tests' output is shown and a table of
# what ran where ends it. A driver's name with +short appended runs go test's short form there, with +vk package vk only, which is
# what the conformance suite (scripts/conform.sh) does not test.
#
# A driver that cannot be had on this machine is listed as not run; with VKMOE_REQUIRE_DRIVERS=1 it is a failure.
# The whole output of each run stays in out/test.
#!/usr/bin/env bash
# test.sh DRIVER… builds every package's tests once and runs those that use a Vulkan device on each driver, the first
# with the validation layer, and the others once. Drivers are with-driver.sh's names. Failing tests' output is shown and a table of
# what ran where ends it. A driver's name with +short appended runs go test's short form there, with +vk package vk only, which is
# what the conformance suite (scripts/conform.sh) does not test.
#
# A driver that cannot be had on this machine is listed as not run; with VKMOE_REQUIRE_DRIVERS=1 it is a failure.
# The whole output of each run stays in out/test.
# VKMOE_TEST_FLAGS holds more flags for the test binaries, such as "-test.run Topk -test.short". VKMOE_TEST_JOBS is how many of
# them run at once: the drivers of CPUs compile shaders, which is most of the work, on one core. By default there is one for each
# core that has 6 GiB of free memory to itself.
set -euo pipefail
cd "$(dirname "$0")/.."

drivers=("$@")
out=$PWD/out/test
rm -rf "$out"
mkdir -p "$out"
export VKMOE_REQUIRE_GPU=1
jobs=${VKMOE_TEST_JOBS:-}
if [ -z "$jobs" ]; then
	cores=$(getconf _NPROCESSORS_ONLN)
	jobs=$(awk -v cores="$cores" '$1 == "MemAvailable:" { n = int($2 / 6291456) } END { print n < 1 ? 1 : n < cores ? n : cores }' \
		/proc/meminfo)
fi
rows=0    # of the table so far
running=0 # of them still at work
short=()  # flags of the driver at hand

# row NUMBER DRIVER PACKAGE PASSED FAILED SKIPPED SECONDS fills a line of the table.
row() {
	local IFS=$'\t'
	echo "${*:2}" >"$out/row-$1"
}

# add COMMAND ARGUMENT… has the table grow by a line, which COMMAND NUMBER ARGUMENT… fills while this goes on, beside at most
# $jobs - 1 others.
add() {
	rows=$((rows + 1))
	if [ $running -eq "$jobs" ]; then
		wait -n || true # the table tells
		running=$((running - 1))
	fi
	"$1" $rows "${@:2}" &
	running=$((running + 1))
}

# finish waits for all lines and prints them; one that is missing counts as a failure.
finish() {
	wait
	local number
	for number in $(seq $rows); do
		cat "$out/row-$number" 2>/dev/null || printf '(ended without a result)\t-\t0\t1\t0\t-\n'
	done | awk -F '\t' '
		function line(a, b, c, d, e, f) { printf "%-32s %-20s %7s %7s %8s %8s\n", a, b, c, d, e, f }
		BEGIN { print ""; line("driver", "package", "passed", "failed", "skipped", "seconds") }
		{ line($1, $2, $3, $4, $5, $6); passed += $3; failed += $4; skipped += $5 }
		END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit failed > 0 }'
}

module=$(go list -m)
tags=$(scripts/tags.sh)
go list -tags "$tags" -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}' ./... | grep . >"$out/packages"
go list -tags "$tags" -test -f '{{.ImportPath}} {{join .Deps " "}}' ./... |
	awk -v vk="$module/vk" '$1 ~ /\.test$/ { for (i = 2; i <= NF; i++) if ($i == vk) print $1 }' >"$out/device"

# binary_of PACKAGE: packages may share a last name, so each binary is called after its whole path.
binary_of() { echo "$out/$(echo "${1#"$module"}" | tr / _).test"; }

# Without what a debugger needs the linker takes half the time; check.sh vets the tests.
while read -r package folder; do
	if ! go test -tags "$tags" -vet=off -ldflags=-w -c -o "$(binary_of "$package")" "$package"; then
		add row "(build)" "${package#"$module"/}" 0 1 0 -
	fi
done <"$out/packages"

# test_package NUMBER LABEL PACKAGE FOLDER COMMAND…: runs the package's tests in their folder, by COMMAND BINARY.
test_package() {
	local number=$1 label=$2 package=${3#"$module"/} folder=$4 binary log status=0 start=$SECONDS p f s
	binary=$(binary_of "$3")
	shift 4
	log=$binary.$label.log
	echo "testing $package on $label"
	# shellcheck disable=SC2086
	(cd "$folder" && "$@" "$binary" -test.v=test2json -test.timeout=20m "${short[@]}" ${VKMOE_TEST_FLAGS:-}) \
		>"$log" 2>&1 </dev/null || status=$?
	awk -v STATUS="$status" -v COUNTS="$log.counts" -f scripts/summarize.awk "$log" >"$log.failures"
	read -r p f s <"$log.counts"
	if [ "$f" -gt 0 ]; then
		(
			flock 9
			echo "--- $package on $label:"
			cat "$log.failures"
		) 9>"$out/lock"
	fi
	row "$number" "$label" "$package" "$p" "$f" "$s" $((SECONDS - start))
}

uses_device() { grep -qxF "$1.test" "$out/device"; }
built() { [ -x "$(binary_of "$1")" ]; }

while read -r package folder; do
	if built "$package" && ! uses_device "$package"; then
		add test_package "(no device)" "$package" "$folder" env
	fi
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
		missing=1
		[ $status -ne 3 ] || [ -n "${VKMOE_REQUIRE_DRIVERS:-}" ] || missing=-
		add row "$label" "(not run)" - $missing - -
		continue
	fi
	while read -r package folder; do
		if built "$package" && uses_device "$package" && [ "${only:-$package}" = "$package" ]; then
			add test_package "$label" "$package" "$folder" "$PWD/scripts/with-driver.sh" "$driver"
		fi
	done <"$out/packages"
done
finish
