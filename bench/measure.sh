#!/bin/sh
# Measures what the README's tables show, in pieces of one to three minutes on an H100.
#
#   bench/measure.sh NAME FOLDER PIECE…     writes FOLDER/NAME-….json; "all" stands for every piece
#
# NAME is the device's, as in h100. Peers that python3 finds are timed in the same run. The environment: VKMOE_BENCH, the program
# (vkmoe-bench); PYTHON (python3); REPS for fewer timed runs of each case; PEERS for the modules of peers (scattermoe torch transformers;
# empty for none).
set -eu

pieces="layers momha granularity sparsity few train generate"
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; echo "pieces: $pieces"; exit 2; } >&2
name=$1 out=$2
shift 2
[ "$*" = all ] || pieces=$*
bench=${VKMOE_BENCH:-vkmoe-bench} python=${PYTHON:-python3} scripts=$(dirname "$0")/peers
mkdir -p "$out"

there() { # whether python finds a module
	case " ${PEERS-scattermoe torch transformers} " in
	*" $1 "*) "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" 2>/dev/null ;;
	*) return 1 ;;
	esac
}

# time_cases FILE ARGUMENTS…, with the peers in $scattermoe and $torch where those are there
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
	layers)
		scattermoe=scattermoe_layers torch=yes
		time_cases bf16-layers forward:anchors mlp:token mlp:layers training:layers dw:gradients dx:gradients
		;;
	momha) scattermoe=scattermoe_momha && time_cases bf16-momha momha ;;
	granularity | sparsity) scattermoe=scattermoe_layers && time_cases "bf16-$piece" "mlp:$piece" "training:$piece" ;;
	few)
		scattermoe=scattermoe_layers torch=yes && time_cases f32 --dtype f32 paper/512 paper/2048
		scattermoe='' torch=''
		time_cases bf16-route --op route
		for weights in int8 q4; do
			time_cases "bf16-$weights" --weights $weights paper/1 paper/8 paper/64 mixtral/1 mixtral/8 mixtral/64 qwen3/1 qwen3/8 qwen3/64
		done
		"$bench" cold --json "$out/$name-bf16-cold.json"
		time_cases bf16-few paper/2 paper/4 paper/16 paper/32 mixtral/2 mixtral/4 mixtral/16 mixtral/32 \
			qwen3/2 qwen3/4 qwen3/16 qwen3/32 olmoe/2 olmoe/4 olmoe/8 olmoe/16 olmoe/32
		;;
	train) training=yes && decoder bf16-decoder-train --work train ;;
	generate)
		training=no
		decoder bf16-decoder-generate --work generate --shape mixtral --batch 1 --length 128 --reps 64
		decoder bf16-decoder-generate32 --work generate --shape mixtral --batch 32 --length 128 --reps 64
		;;
	*) echo "there is no piece $piece" >&2 && exit 2 ;;
	esac
done
