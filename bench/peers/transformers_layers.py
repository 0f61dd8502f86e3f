"""Times the sparse MLPs of transformers, its Mixtral, Qwen3-MoE and OLMoE modules with their own routers. See common.py.

    vkmoe-bench --op mlp --peer "python3 bench/peers/transformers_layers.py" mixtral qwen3

Needs a CUDA device and transformers. VKMOE_EXPERTS chooses its implementation of the experts (eager, batched_mm, grouped_mm),
where the version has several; grouped_mm otherwise. The modules route by themselves, which vkmoe-bench's op mlp does not
include.
"""

import os

import torch
import transformers

import common

KINDS = {
    "mixtral": ("mixtral", "MixtralConfig", "MixtralSparseMoeBlock", "intermediate_size", "num_local_experts"),
    "qwen3": ("qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeSparseMoeBlock", "moe_intermediate_size", "num_experts"),
    "olmoe": ("olmoe", "OlmoeConfig", "OlmoeSparseMoeBlock", "intermediate_size", "num_experts"),
}


def main():
    parsed = common.Arguments(["mlp", "training"])
    dtype = common.DTYPES[parsed.dtype]
    experts = os.environ.get("VKMOE_EXPERTS", "grouped_mm")

    def measure(case):
        training = case.operation == "training"
        kind = case.name.split("/")[0]
        if kind not in KINDS:
            raise common.Skip("transformers has no such model")
        module, config_name, block_name, hidden, count = KINDS[kind]
        library = getattr(transformers.models, module)
        config = getattr(library, config_name)(
            hidden_size=case.width, num_experts_per_tok=case.k, **{hidden: case.out, count: case.experts}
        )
        config._experts_implementation = experts
        with torch.device("cuda"):
            block = getattr(getattr(library, f"modeling_{module}"), block_name)(config).to(dtype)
        with torch.no_grad():
            for weight in block.parameters():
                weight.copy_(torch.empty_like(weight).uniform_(-0.03, 0.03))
        x = common.uniform(1, case.tokens, case.width, scale=1, dtype=dtype).requires_grad_(training)
        dy = common.uniform(1, case.tokens, case.width, scale=1, dtype=dtype)

        def forward():
            y = block(x)
            return y[0] if isinstance(y, tuple) else y

        def run():
            if not training:
                with torch.no_grad():
                    return forward()
            return torch.autograd.grad(forward(), [x, *block.parameters()], dy)

        return common.clock(run, parsed.reps, graph=False) | {"extra_mb": common.extra_memory(run)}

    common.report(f"transformers ({experts})", transformers.__version__, parsed, measure)


if __name__ == "__main__":
    main()
