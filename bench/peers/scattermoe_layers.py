"""Times ScatterMoE's ParallelLinear, groupXTY and MLPs. See common.py for the arguments.

    vkmoe-bench --op training --peer "python3 bench/peers/scattermoe_layers.py" granularity

Needs a CUDA device and ScatterMoE (pip install scattermoe, or PYTHONPATH to a checkout of it).
"""

import importlib.metadata
import sys
import types

import torch
import triton
from torch import nn

import common

# Its changes to transformers, which take long to import and are not used here.
sys.modules.setdefault("scattermoe.utils", types.ModuleType("scattermoe.utils"))
from scattermoe import kernels
from scattermoe.mlp import MLP, GLUMLP
from scattermoe.parallel_experts import parallel_linear


def version():
    try:
        own = importlib.metadata.version("scattermoe")
    except importlib.metadata.PackageNotFoundError:
        own = "checkout"
    return f"{own} (Triton {triton.__version__}, PyTorch {torch.__version__})"


def routing(case):
    """What its flatten_sort_count returns, without compiling that."""
    flat = common.choices(case).flatten()
    sorted_ids, order = torch.sort(flat)
    return flat, sorted_ids, order, torch.bincount(flat, minlength=case.experts).cumsum(-1)


def linear(case, parsed, dtype):
    x = common.uniform(case.tokens, case.width, scale=1, dtype=dtype)
    w = common.bank(case.experts, case.out, case.width, dtype)
    _, sorted_ids, order, offsets = routing(case)
    run = lambda: parallel_linear(x, w.permute(0, 2, 1), case.k, sorted_ids, order, offsets, grouped_out=True)
    y, p = run(), case.tokens * case.k // 2
    error = common.relative(y[p], w[sorted_ids[p]].double() @ x[order[p] // case.k].double())
    return run, error


def weight_gradient(case, parsed, dtype):
    slots = case.tokens * case.k
    x = common.uniform(slots, case.width, scale=1, dtype=dtype)
    dy = common.uniform(slots, case.out, scale=1, dtype=dtype)
    flat, _, _, offsets = routing(case)
    run = lambda: kernels.ops.group_bwd_W(DY=dy, X=x, expert_offsets=offsets, E=case.experts)[0]
    expert = int(flat[0])
    first = int(offsets[expert - 1]) if expert else 0
    rows = slice(first, int(offsets[expert]))
    got = run()[expert][:, 0]  # [in, out] of an expert, its first output
    return run, common.relative(got, x[rows].double().T @ dy[rows, 0].double())


def mlp(case, parsed, dtype, training):
    make = GLUMLP if case.gated else MLP
    activation = nn.SiLU() if case.gated else nn.GELU()
    with torch.device("cuda"):
        layer = make(case.width, case.out, case.experts, case.k, activation=activation).to(dtype)
    with torch.no_grad():
        layer.experts.weight.copy_(common.bank(*layer.experts.weight.shape, dtype))
        layer.output_experts.weight.copy_(common.bank(*layer.output_experts.weight.shape, dtype))
    x = common.uniform(case.tokens, case.width, scale=1, dtype=dtype).requires_grad_(training)
    dy = common.uniform(case.tokens, case.width, scale=1, dtype=dtype)
    ids = common.choices(case)
    gates = common.uniform(case.tokens, case.k, scale=1, dtype=dtype).requires_grad_(training)
    wanted = [x, gates, layer.experts.weight, layer.output_experts.weight]

    def run():
        if not training:
            with torch.no_grad():
                return layer(x, gates, ids)
        return torch.autograd.grad(layer(x, gates, ids), wanted, dy)

    with torch.no_grad():
        t, want = case.tokens // 2, 0
        for j in range(case.k):
            z = layer.experts.weight[ids[t, j]].double() @ x[t].double()
            h = z[case.out :] if case.gated else None
            # GLUMLP's first half is the factor and its second the gate.
            h = z[: case.out] * nn.functional.silu(h) if case.gated else nn.functional.gelu(z)
            want = want + gates[t, j].double() * (layer.output_experts.weight[ids[t, j]].double() @ h)
        return run, common.relative(layer(x, gates, ids)[t], want)


def main():
    parsed = common.Arguments(["forward", "dw", "mlp", "training"])
    dtype = common.DTYPES[parsed.dtype]
    kernels.ops.ALLOW_TF32 = parsed.dtype != "f32"

    def measure(case):
        if case.operation == "forward":
            run, error = linear(case, parsed, dtype)
        elif case.operation == "dw":
            run, error = weight_gradient(case, parsed, dtype)
        else:
            run, error = mlp(case, parsed, dtype, case.operation == "training")
        if not error < 3e-2:
            raise common.Skip(f"wrong by {error}")
        result = common.clock(run, parsed.reps, graph=case.operation in ("forward", "dw")) | {"relative_error": error}
        return result | {"extra_mb": common.extra_memory(run)}

    common.report("ScatterMoE", version(), parsed, measure)


if __name__ == "__main__":
    main()
