#!/usr/bin/env bash
# conform.sh [DRIVER…] runs the required list of the conformance suite on each driver, by with-driver.sh's names, and leaves
# out/conform/DRIVER.json, .html and .xml (JUnit). Appended to a driver's name,
#
#   +validation    fails cases of which the Khronos validation layer (core and synchronization) has something to say
#   +gpu           the same, GPU-assisted validation too
#   +faults        then plants every fault in turn, each of which has to be found
#   +all           runs every case, not only the required list
#
# radv:FAMILY compiles only, against the budgets of registers and shared memory in tests/conform/budgets; with VKMOE_UPDATE=1 it
# writes these anew. Without a DRIVER it does all that the machine can.
#
# A driver that cannot be had on this machine is listed as not run; with VKMOE_REQUIRE_DRIVERS=1 it is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

families=(polaris10 vega10 navi10 navi21 navi31 gfx1201)
drivers=("$@")
if [ $# -eq 0 ]; then
	drivers=(lavapipe-22.3+validation lavapipe-22.3-sg4+validation lavapipe-22.3-sg16+validation lavapipe-25.0+validation
		lavapipe-26.2+validation+faults swiftshader+validation lavapipe-22.3+gpu "${families[@]/#/radv:}")
fi
out=out/conform
rm -rf "$out"
mkdir -p "$out"
scripts/build-conform.sh "$out/vkmoe-conform"
suite=$PWD/$out/vkmoe-conform
status=0

# row LABEL RESULT SECONDS adds a line to the table.
row() { printf '%-44s %-28s %6s s\n' "$@" >>"$out/table"; }

# run_suite LABEL DRIVER FLAG…: runs the suite on a driver.
run_suite() {
	local label=$1 driver=$2
	shift 2
	scripts/with-driver.sh "$driver" "$suite" run "$@" --label "$label" --json "$out/$label.json" --html "$out/$label.html" \
		--junit "$out/$label.xml" --evidence "$out/evidence-$label" >"$out/$label.log" 2>&1 </dev/null
}

# compile FAMILY: compiles for an AMD GPU that is not there.
compile() {
	local update=()
	[ -z "${VKMOE_UPDATE:-}" ] || update=(--update)
	scripts/with-driver.sh "radv:$1" "$suite" compile --required --budgets "tests/conform/budgets/$1.json" "${update[@]}" \
		--json "$out/radv-$1.json" >"$out/radv:$1.log" 2>&1 </dev/null
}

for label in "${drivers[@]}"; do
	driver=${label%%+*}
	start=$SECONDS
	flags=(--required) code=0
	unset VKMOE_VALIDATION
	case +${label#"$driver"}+ in
	*+all+*) flags=() ;;
	esac
	case $label+ in
	*+validation+*)
		export VKMOE_VALIDATION=1
		flags+=(--validation --timeout 5m)
		;;
	*+gpu+*)
		export VKMOE_VALIDATION=gpu
		flags+=(--validation=gpu --timeout 5m)
		;;
	esac
	case $label+ in
	*+faults+*) flags+=(--faults) ;;
	esac
	echo "conform.sh: $label"
	scripts/with-driver.sh "$driver" "$(type -P true)" || code=$?
	if [ $code -ne 0 ]; then
		row "$label" "(not run)" 0
		[ $code -eq 3 ] && [ -z "${VKMOE_REQUIRE_DRIVERS:-}" ] || status=1
		continue
	fi
	case $driver in
	radv:*) compile "${driver#radv:}" || code=$? ;;
	*) run_suite "$label" "$driver" "${flags[@]}" || code=$? ;;
	esac
	if [ $code -eq 0 ]; then
		row "$label" "passes" $((SECONDS - start))
	else
		status=1
		row "$label" "FAILS (exit code $code)" $((SECONDS - start))
		tail -n 60 "$out/$label.log"
	fi
done
unset VKMOE_VALIDATION
echo
cat "$out/table"
exit $status
