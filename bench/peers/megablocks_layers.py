"""Times MegaBlocks' dropless MLP on its grouped path. See common.py for the arguments.

    vkmoe-bench --op mlp --peer "python3 bench/peers/megablocks_layers.py" granularity

Needs a CUDA device and MegaBlocks with grouped_gemm (pip install megablocks grouped_gemm). The expert weights are those that
MegaBlocks makes itself; experts and gates are given, as to the others.
"""

import importlib.metadata

import torch
from megablocks.layers.arguments import Arguments
from megablocks.layers.dmoe import ParallelDroplessMLP
from torch.nn import functional

import common


def main():
    parsed = common.Arguments(["mlp", "training"])
    dtype = common.DTYPES[parsed.dtype]

    def measure(case):
        training = case.operation == "training"
        layer = ParallelDroplessMLP(
            Arguments(
                hidden_size=case.width,
                ffn_hidden_size=case.out,
                moe_num_experts=case.experts,
                moe_top_k=case.k,
                mlp_type="glu" if case.gated else "mlp",
                mlp_impl="grouped",
                activation_fn=functional.silu if case.gated else functional.gelu,
                bias=False,
                return_bias=False,
                fp16=dtype == torch.float16,
                bf16=dtype == torch.bfloat16,
                device=torch.device("cuda"),
            )
        )
        x = common.uniform(case.tokens, case.width, scale=1, dtype=dtype).requires_grad_(training)
        dy = common.uniform(case.tokens, case.width, scale=1, dtype=dtype)
        ids = common.choices(case)
        gates = common.uniform(case.tokens, case.k, scale=1, dtype=dtype).requires_grad_(training)
        scores = torch.zeros(case.tokens, case.experts, device="cuda", dtype=dtype)
        wanted = [x, gates, *layer.parameters()]

        def run():
            if not training:
                with torch.no_grad():
                    return layer(x, scores, gates, ids)
            return torch.autograd.grad(layer(x, scores, gates, ids), wanted, dy)

        return common.clock(run, parsed.reps, graph=False) | {"extra_mb": common.extra_memory(run)}

    common.report("MegaBlocks", importlib.metadata.version("megablocks"), parsed, measure)


if __name__ == "__main__":
    main()
