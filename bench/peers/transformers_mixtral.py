"""Times the models of `vkmoe-bench decoder` in transformers, with ScatterMoE in them or with torch's grouped products.

    python3 bench/peers/transformers_mixtral.py train [--experts scattermoe|grouped_mm|batched_mm] [--batch 8] [--length 2048]
    python3 bench/peers/transformers_mixtral.py generate [--experts …] [--batch 1] [--length 128] [--reps 64]

Needs a CUDA device, torch and transformers 5; for --experts scattermoe also the package of that name. Prints one line of JSON: the
median of the steps, the device memory of weights, gradients and optimizer states, and the most that was allocated at once.

Training is in bf16 with torch's fused AdamW on bf16 weights. That is half of the states which vkmoe keeps: its weights have f32
masters and its moments are f32. --masters gives torch the same, by hand. Attention is scaled_dot_product_attention.
"""

import argparse
import json
import statistics
import time

import torch
import transformers
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

import common

SHAPES = {  # as decoderShapes of cmd/vkmoe-bench
    "paper": dict(hidden_size=1024, num_hidden_layers=16, num_attention_heads=16, head_dim=64, intermediate_size=3584),
    "mixtral": dict(hidden_size=4096, num_hidden_layers=4, num_attention_heads=32, head_dim=128, intermediate_size=14336),
}


def scattermoe_experts(self, x, ids, gates):
    """One sparse MLP through ScatterMoE: x [T,D], ids and gates [T,k]."""
    from scattermoe.parallel_experts import flatten_sort_count, parallel_linear

    experts, slots, offsets = flatten_sort_count(ids, num_experts=self.gate_up_proj.size(0))
    gate, up = parallel_linear(
        x, self.gate_up_proj.transpose(1, 2), ids.size(1), experts, slots, offsets, grouped_out=True
    ).chunk(2, dim=-1)
    return parallel_linear(
        self.act_fn(gate) * up, self.down_proj.transpose(1, 2), 1, experts, slots, offsets, gates=gates.to(x.dtype), grouped_in=True
    )


def build(shape, implementation, positions):
    config = MixtralConfig(
        vocab_size=32000,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        **SHAPES[shape],
    )
    config._attn_implementation = "sdpa"
    if implementation == "scattermoe":
        ALL_EXPERTS_FUNCTIONS.register("scattermoe", scattermoe_experts)
    config._experts_implementation = implementation
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = MixtralForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.config._experts_implementation = implementation
    return model


def elapsed(work):
    torch.cuda.synchronize()
    begin = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - begin


def train(model, args):
    parameters = list(model.parameters())
    masters = [p.detach().float() for p in parameters] if args.masters else parameters
    optimizer = torch.optim.AdamW(masters, lr=1e-5, weight_decay=0.1, fused=True)
    ids = torch.randint(32000, (args.batch, args.length), device="cuda")

    def step():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        if args.masters:
            for master, p in zip(masters, parameters):
                master.grad = p.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        if args.masters:
            with torch.no_grad():
                torch._foreach_copy_(parameters, masters)
        for p in {*masters, *parameters}:
            p.grad = None

    for _ in range(3):
        step()
    torch.cuda.reset_peak_memory_stats()
    times = [elapsed(step) for _ in range(args.reps)]
    weights = sum(p.nbytes for p in parameters)
    moments = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t))
    states = 2 * weights + moments + (sum(p.nbytes for p in masters) if args.masters else 0)
    return statistics.median(times), args.batch * args.length, states


@torch.no_grad()
def generate(model, args):
    ids = torch.randint(32000, (args.batch, args.length), device="cuda")
    options = dict(do_sample=True, temperature=1.0, top_k=50, top_p=0.95, pad_token_id=0, eos_token_id=None)

    def run(tokens):
        return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens, **options)

    elapsed(run(4))
    torch.cuda.reset_peak_memory_stats()
    times = [(elapsed(run(args.reps)) - elapsed(run(1))) / (args.reps - 1) for _ in range(3)]
    return statistics.median(times), args.batch, sum(p.nbytes for p in model.parameters())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "generate"])
    parser.add_argument("--experts", default="grouped_mm")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--reps", type=int, default=10)
    parser.add_argument("--masters", action="store_true")
    args = parser.parse_args()
    shape = args.shape or {"train": "paper", "generate": "mixtral"}[args.work]
    model = build(shape, args.experts, args.length + args.reps)
    seconds, tokens, states = (train if args.work == "train" else generate)(model, args)
    device = {key.capitalize(): value for key, value in common.stamp().items()}
    print(
        json.dumps(
            device
            | {
                "Peer": f"torch {torch.__version__}, transformers {transformers.__version__}, {args.experts}",
                "Shape": shape,
                "Work": args.work,
                "Parameters": sum(p.numel() for p in model.parameters()),
                "Batch": args.batch,
                "Length": args.length,
                "Masters": args.masters,
                "SecondsPerStep": seconds,
                "TokensPerSecond": tokens / seconds,
                "StateBytes": states,
                "PeakBytes": torch.cuda.max_memory_allocated(),
            }
        )
    )


if __name__ == "__main__":
    main()
