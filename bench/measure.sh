#!/bin/sh
# Measures what the README's tables show, in pieces of at most about 100 s on an H100.
#
#   bench/measure.sh NAME FOLDER PIECE…     writes FOLDER/NAME-….json; "all" stands for every piece
#
# NAME is the device's, as in h100. Peers that python3 finds are timed in the same run: ScatterMoE, and torch and transformers. The
# environment: VKMOE_BENCH, the program (vkmoe-bench), PYTHON (python3), REPS for fewer timed runs of each case, PEERS=no for none.
set -eu

pieces="forward-unit forward-models gradients mlp mlp-sweeps training training-sweeps momha few f32 quantized cold train generate"
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; echo "pieces: $pieces"; exit 2; } >&2
name=$1 out=$2
shift 2
[ "$*" = all ] || pieces=$*
bench=${VKMOE_BENCH:-vkmoe-bench} python=${PYTHON:-python3} scripts=$(dirname "$0")/peers
mkdir -p "$out"

there() { # whether python finds a module
	[ "${PEERS:-}" != no ] && "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" 2>/dev/null
}

# time FILE ARGUMENTS…, with the peers in $scattermoe and $torch where those are there
time_cases() {
	file=$out/$name-$1.json
	shift
	if [ -n "${scattermoe:-}" ] && there scattermoe; then set -- --peer "$python $scripts/$scattermoe.py" "$@"; fi
	if [ -n "${torch:-}" ] && there torch; then set -- --peer "$python $scripts/torch_grouped_mm.py" "$@"; fi
	"$bench" --parts ${REPS:+--reps "$REPS"} --json "$file" "$@"
}

decoder() {
	file=$out/$name-$1.json
	shift
	if there transformers; then
		set -- --peer "$python $scripts/transformers_mixtral.py" "$@"
		if [ "$training" = yes ] && there scattermoe; then
			set -- --peer "$python $scripts/transformers_mixtral.py --experts scattermoe" "$@"
		fi
	fi
	"$bench" decoder --json "$file" "$@"
}

for piece in $pieces; do
	echo "== $piece"
	scattermoe='' torch=''
	case $piece in
	forward-unit) scattermoe=scattermoe_layers torch=yes && time_cases bf16-forward-unit paper/1 paper/8 paper/64 paper/512 paper/2048 paper/8192 paper/61440 ;;
	forward-models)
		scattermoe=scattermoe_layers torch=yes
		time_cases bf16-forward-models mixtral/1 mixtral/8 mixtral/64 mixtral/512 mixtral/4096 \
			qwen3/1 qwen3/8 qwen3/64 qwen3/512 qwen3/4096 olmoe/1 olmoe/512 olmoe/4096
		;;
	gradients)
		time_cases bf16-dx --op dx
		scattermoe=scattermoe_layers && time_cases bf16-dw --op dw
		;;
	mlp) scattermoe=scattermoe_layers && time_cases bf16-mlp --op mlp token layers ;;
	mlp-sweeps) scattermoe=scattermoe_layers && time_cases bf16-mlp-sweeps --op mlp granularity sparsity ;;
	training) scattermoe=scattermoe_layers && time_cases bf16-training --op training layers ;;
	training-sweeps) scattermoe=scattermoe_layers && time_cases bf16-training-sweeps --op training granularity sparsity ;;
	momha) scattermoe=scattermoe_momha && time_cases bf16-momha momha ;;
	few)
		time_cases bf16-route --op route
		time_cases bf16-few paper/2 paper/4 paper/16 paper/32 mixtral/2 mixtral/4 mixtral/16 mixtral/32 \
			qwen3/2 qwen3/4 qwen3/16 qwen3/32 olmoe/2 olmoe/4 olmoe/8 olmoe/16 olmoe/32
		;;
	f32) scattermoe=scattermoe_layers torch=yes && time_cases f32 --dtype f32 paper/512 paper/2048 ;;
	quantized)
		for weights in int8 q4; do
			time_cases "bf16-$weights" --weights $weights paper/1 paper/8 paper/64 mixtral/1 mixtral/8 mixtral/64 qwen3/1 qwen3/8 qwen3/64
		done
		;;
	cold) "$bench" cold --json "$out/$name-bf16-cold.json" ;;
	train) training=yes && decoder bf16-decoder-train --work train ;;
	generate)
		training=no
		decoder bf16-decoder-generate --work generate --shape mixtral --batch 1 --length 128 --reps 64
		decoder bf16-decoder-generate32 --work generate --shape mixtral --batch 32 --length 128 --reps 64
		;;
	*) echo "there is no piece $piece" >&2 && exit 2 ;;
	esac
done
