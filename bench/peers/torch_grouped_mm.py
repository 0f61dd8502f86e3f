"""Times the layers of cmd/vkmoe-bench in PyTorch: gather, then torch._grouped_mm, in bf16.

    python3 bench/peers/torch_grouped_mm.py [CASE…]

Needs a CUDA device and a torch that has _grouped_mm. Times are CUDA events around one captured graph of ten runs, after at
least 0.3 s of warm-up: the median of 30.
"""

import statistics
import sys
import time

import torch

LAYERS = {  # experts, choices, in, out, tokens
    "paper": (32, 4, 4096, 2048, [1, 8, 64, 512, 2048, 8192, 61440]),
    "mixtral": (8, 2, 4096, 14336, [1, 8, 64, 512, 4096]),
    "qwen3": (128, 8, 2048, 768, [1, 8, 64, 512, 4096]),
    "olmoe": (64, 8, 2048, 1024, [1, 512, 4096]),
}


def microseconds(experts, k, width, out, tokens):
    generator = torch.Generator(device="cuda").manual_seed(tokens)
    x = torch.rand(tokens, width, device="cuda", generator=generator).mul_(2).sub_(1).bfloat16()
    w = torch.rand(experts, out, width, device="cuda", generator=generator).sub_(0.5).mul_(2 / width**0.5).bfloat16()
    ids = torch.rand(tokens, experts, device="cuda", generator=generator).topk(k).indices.flatten()
    order = ids.argsort(stable=True)
    rows = order // k
    ends = torch.bincount(ids, minlength=experts).cumsum(0).int()

    def forward():
        return torch._grouped_mm(x[rows], w.transpose(1, 2), offs=ends)

    start = time.monotonic()
    while time.monotonic() - start < 0.3:
        forward()
        torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            forward()
    times = []
    for _ in range(30):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 100)
    return statistics.median(times)


def main():
    wanted = sys.argv[1:]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: gather and _grouped_mm, bf16")
    for name, (experts, k, width, out, sizes) in LAYERS.items():
        for tokens in sizes:
            case = f"{name}/{tokens}"
            if wanted and case not in wanted and name not in wanted:
                continue
            print(f"{case:14} {microseconds(experts, k, width, out, tokens):9.1f} µs", flush=True)


if __name__ == "__main__":
    main()
