"""Times a mixture of attention made of ScatterMoE's ParallelLinear and PyTorch's flash attention, forward and with its backward pass.

    vkmoe-bench --peer "python3 bench/peers/scattermoe_momha.py" momha

vkmoe-bench calls it with --op momha and CASE EXPERTS K WIDTH OUT TOKENS LENGTHxHEADWIDTH, where OUT is as wide as all heads of an
expert; see common.py for the rest. Each token's K experts are their own queries' and output's projections, and all share keys and
values of one expert's heads (ScatterMoE's paper, section 3.3). Positions are not encoded here, which vkmoe's layer does too.
"""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import common
from scattermoe_layers import version
from scattermoe.parallel_experts import flatten_sort_count, parallel_linear


class Mixture:
    """The layer of a case, with random weights."""

    def __init__(self, case, dtype, training):
        self.case, self.length, self.head = case, *map(int, case.activation.split("x"))
        self.heads = case.out // self.head  # of an expert
        columns = case.experts, case.out, case.width
        self.router = common.bank(1, case.experts, case.width, dtype)[0].requires_grad_(training)
        self.query = common.bank(*columns, dtype).requires_grad_(training)
        self.key_value = common.bank(1, 2 * case.out, case.width, dtype)[0].requires_grad_(training)
        self.output = common.bank(case.experts, case.width, case.out, dtype).requires_grad_(training)
        self.weights = [self.router, self.query, self.key_value, self.output]

    def route(self, x):
        values, ids = (x @ self.router.T).topk(self.case.k)
        return values.softmax(-1), ids

    def forward(self, x):
        c, sequences = self.case, self.case.tokens // self.length
        gates, ids = self.route(x)
        order = flatten_sort_count(ids, num_experts=c.experts)
        q = parallel_linear(x, self.query.permute(0, 2, 1), c.k, *order)
        # [T·k, h·d] to query heads that follow each other where they share keys: [B, h·k, L, d].
        q = q.view(sequences, self.length, c.k, self.heads, self.head).permute(0, 3, 2, 1, 4).flatten(1, 2)
        kv = (x @ self.key_value.T).view(sequences, self.length, 2, self.heads, self.head).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            o = scaled_dot_product_attention(q, kv[0], kv[1], is_causal=True, enable_gqa=c.k > 1)
        o = o.view(sequences, self.heads, c.k, self.length, self.head).permute(0, 3, 2, 1, 4).reshape(-1, c.out)
        return parallel_linear(o, self.output.permute(0, 2, 1), 1, *order, gates=gates)

    @torch.no_grad()
    def error(self, x, y, at=20):
        """How far the output of a token of the first sequence is from a double's, relatively."""
        c, x = self.case, x[: at + 1].double()
        kv = (x @ self.key_value.double().T).view(-1, 2, self.heads, self.head)
        gates, ids = self.route(x[at:].to(y.dtype))
        want = 0
        for gate, expert in zip(gates[0].double(), ids[0]):
            q = (self.query[expert].double() @ x[at]).view(self.heads, self.head)
            scores = torch.einsum("hd,lhd->hl", q, kv[:, 0]) / self.head**0.5
            heads = torch.einsum("hl,lhd->hd", scores.softmax(-1), kv[:, 1])
            want = want + gate * (self.output[expert].double() @ heads.flatten())
        return common.relative(y[at], want)


def main():
    parsed = common.Arguments(["momha"])
    dtype = common.DTYPES[parsed.dtype]

    def measure(case):
        for operation in ("forward", "training"):
            training = operation == "training"
            layer = Mixture(case, dtype, training)
            x = common.uniform(case.tokens, case.width, scale=1, dtype=dtype).requires_grad_(training)
            dy = common.uniform(case.tokens, case.width, scale=1, dtype=dtype)

            def run():
                if not training:
                    with torch.no_grad():
                        return layer.forward(x)
                return torch.autograd.grad(layer.forward(x), [x, *layer.weights], dy)

            error = layer.error(x, layer.forward(x))
            if not error < 3e-2:
                raise common.Skip(f"wrong by {error}")
            times = common.clock(run, parsed.reps, graph=False)
            yield times | {"operation": operation, "relative_error": error, "extra_mb": common.extra_memory(run)}

    common.report("ScatterMoE and PyTorch's flash attention", version(), parsed, measure)


if __name__ == "__main__":
    main()
