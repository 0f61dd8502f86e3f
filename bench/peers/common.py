"""What the scripts that time peers share: their arguments, random layers, clocks, and JSON for vkmoe-bench --peer.

A script is called as

    python3 bench/peers/SCRIPT.py [--dtype DTYPE] [--reps N] [--op OPERATION] [CASE EXPERTS K IN OUT TOKENS ACTIVATION …] [--op …]

seven words for each case of cmd/vkmoe-bench, after the operation. It prints one JSON object, and what it cannot do on standard error. A time is that
of one run in microseconds between two CUDA events: of a captured graph of runs where the peer allows that, else of as many queued
runs, after at least 0.3 s of warm-up. Inputs, weights and choices are random, as vkmoe-bench's are.
"""

import datetime
import json
import math
import re
import sys
import time
from dataclasses import dataclass

import torch

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Case:
    """A layer and its tokens; of an MLP, width is that of the model and out the hidden width."""

    operation: str
    name: str
    experts: int
    k: int
    width: int
    out: int
    tokens: int
    activation: str

    @property
    def gated(self):
        return self.activation == "SwiGLU"


class Skip(Exception):
    """Says why a case cannot be timed."""


class Arguments:
    """What a script is asked for. Cases of other operations than these are left out."""

    def __init__(self, operations):
        self.dtype, self.reps, self.cases = "bf16", 30, []
        words, operation = sys.argv[1:], operations[0]
        if "--help" in words:
            sys.exit(__doc__)
        while words:
            if words[0] == "--op":
                operation, words = words[1], words[2:]
            elif words[0] == "--dtype":
                self.dtype, words = words[1], words[2:]
            elif words[0] == "--reps":
                self.reps, words = int(words[1]), words[2:]
            elif len(words) < 7:
                sys.exit("want CASE EXPERTS K IN OUT TOKENS ACTIVATION, again and again: see --help")
            else:
                (name, *numbers, activation), words = words[:7], words[7:]
                if operation in operations:
                    self.cases.append(Case(operation, name, *map(int, numbers), activation))
        if not torch.cuda.is_available():
            sys.exit("no CUDA device")
        if self.dtype == "f32":  # as vkmoe, which never rounds f32 operands
            torch.backends.cuda.matmul.allow_tf32 = False


def uniform(*shape, scale, dtype):
    return torch.empty(*shape, device="cuda", dtype=torch.float32).uniform_(-scale, scale).to(dtype)


def bank(experts, rows, columns, dtype):
    """Random weights [experts, rows, columns], made expert by expert."""
    weights = torch.empty(experts, rows, columns, device="cuda", dtype=dtype)
    for e in range(experts):
        weights[e] = uniform(rows, columns, scale=2 / math.sqrt(columns), dtype=dtype)
    return weights


def choices(case):
    """Random distinct experts [tokens, k] for each token."""
    return torch.rand(case.tokens, case.experts, device="cuda").topk(case.k).indices


def clock(run, reps, graph=True):
    """Median, least and 90th percentile of a run's time in microseconds, and whether it was captured."""
    run()  # which may compile
    torch.cuda.synchronize()
    start, runs = time.monotonic(), 0
    while time.monotonic() - start < 0.3:
        run()
        torch.cuda.synchronize()
        runs += 1
    inner, captured = max(1, min(10, runs // 10)), False  # 10 runs, or as many as take some 30 ms
    replay = lambda: [run() for _ in range(inner)]
    if graph:
        try:
            g = torch.cuda.CUDAGraph()
            with torch.cuda.graph(g):
                for _ in range(inner):
                    run()
            replay, captured = g.replay, True
        except RuntimeError as why:
            torch.cuda.synchronize()
            print(f"without a graph: {str(why).splitlines()[0]}", file=sys.stderr)
    times = []
    for _ in range(reps):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) * 1000 / inner)
    times.sort()
    return {"min_us": times[0], "median_us": times[len(times) // 2], "p90_us": times[len(times) * 9 // 10], "graph": captured}


def extra_memory(run):
    """Bytes that a run takes at most beside what is there, in MB (10⁶)."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return peak / 1e6


def relative(got, want):
    return (torch.linalg.norm(got.double() - want.double()) / torch.linalg.norm(want.double())).item()


def stamp():
    """What was measured on, and when."""
    driver = ""
    try:
        with open("/proc/driver/nvidia/version") as f:
            driver = "NVIDIA " + re.search(r"\d+\.\d+[.\d]*", f.readline()).group()
    except (OSError, AttributeError):
        pass
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"device": torch.cuda.get_device_name(), "driver": driver, "date": date}


def report(peer, version, parsed, measure):
    """Times every case by measure(case), which returns a result or yields several, and prints the JSON object."""
    results = []
    for case in parsed.cases:
        try:
            torch.manual_seed(case.tokens)
            found = measure(case)
            for result in [found] if isinstance(found, dict) else found:
                results.append({"operation": case.operation, "case": case.name} | result)
                print(case.name, results[-1], file=sys.stderr, flush=True)
        except (Skip, torch.OutOfMemoryError, RuntimeError, AssertionError) as why:
            print(f"{case.name}: {type(why).__name__}: {str(why).splitlines()[0] if str(why) else ''}", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    print(json.dumps({"peer": peer, "version": version} | stamp() | {"dtype": parsed.dtype, "results": results}, indent="\t"))
