"""Times a layer in PyTorch alone: gather, then torch._grouped_mm. See common.py for the arguments.

    vkmoe-bench --peer "python3 bench/peers/torch_grouped_mm.py" paper

Needs a CUDA device and a torch that has _grouped_mm, which takes bf16 only.
"""

import torch

import common


def main():
    parsed = common.Arguments(["forward"])
    dtype = common.DTYPES[parsed.dtype]

    def measure(case):
        x = common.uniform(case.tokens, case.width, scale=1, dtype=dtype)
        w = common.bank(case.experts, case.out, case.width, dtype)
        ids = common.choices(case).flatten()
        order = ids.argsort(stable=True)
        rows = order // case.k
        ends = torch.bincount(ids, minlength=case.experts).cumsum(0).int()
        run = lambda: torch._grouped_mm(x[rows], w.transpose(1, 2), offs=ends)
        y, slot = run(), case.tokens * case.k // 2
        error = common.relative(y[slot], w[ids[order[slot]]].double() @ x[rows[slot]].double())
        if not error < 2e-2:
            raise common.Skip(f"wrong by {error}")
        return common.clock(run, parsed.reps) | {"relative_error": error}

    common.report("PyTorch gather + _grouped_mm", torch.__version__, parsed, measure)


if __name__ == "__main__":
    main()
