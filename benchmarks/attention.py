"""What NSA costs over dense causal attention on the CPU: a 125 M model, and one layer at three lengths.

    python benchmarks/attention.py [--rounds 5] [--threads 2] [--cpu-time] [--skip-layers] [--write]

Time: forward and backward of `Transformer.loss`, batch 1, float32, the two models in one process taking
turns, so that the machine's moods meet both; medians, and the ratio of each round's pair. On a machine that
others use, `--threads 1 --cpu-time` counts the process's own CPU time instead. Memory: a process of its own
for each model, which does two steps and reports its peak resident set, as it is and above what it held after
importing torch (the same for both, it would flatter the ratio). "Documents of 300" is the same row cut up,
where the dense model needs a mask too. Exits with 1 if a target is missed.

Not here: the optimizer, and what a whole step of training takes (benchmarks/train.py).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import support
from nsa.attention import DenseAttention, NSAAttention
from nsa.config import ModelConfig
from nsa.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SHAPE: Mapping[str, Any] = {"dim": 768, "layers": 12, "heads": 12, "kv_groups": 2}
VOCABULARY = 50_257
SEQUENCE = 1024
DOCUMENT = 300
TARGET = 2.0


def config(kind: str) -> ModelConfig:
    return ModelConfig(**SHAPE, attention=kind)


def documents(sequence: int, *, packed: bool) -> torch.Tensor:
    return torch.arange(sequence)[None] // (DOCUMENT if packed else sequence)


def model_step(kind: str, *, packed: bool) -> Callable[[], None]:
    """Forward and backward of a whole model."""
    torch.manual_seed(0)
    model = Transformer(config(kind), VOCABULARY, SEQUENCE)
    tokens = torch.randint(VOCABULARY, (1, SEQUENCE + 1))
    ids = documents(SEQUENCE + 1, packed=packed) if packed else torch.zeros(1, SEQUENCE + 1, dtype=torch.long)

    def step() -> None:
        model.zero_grad(set_to_none=False)
        model.loss(tokens, ids).backward()

    return step


def layer_step(kind: str, sequence: int, *, packed: bool) -> Callable[[], None]:
    """Forward and backward of one attention layer, its layout included."""
    torch.manual_seed(0)
    layer = (NSAAttention if kind == "nsa" else DenseAttention)(config(kind))
    x = torch.randn(1, sequence, SHAPE["dim"], requires_grad=True)
    ids = documents(sequence, packed=packed)

    def step() -> None:
        layer.zero_grad(set_to_none=False)
        layer(x, ids).sum().backward()

    return step


def compare(
    steps: Mapping[str, Callable[[], None]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median milliseconds of each, taking turns, and the median, least and greatest ratio of a round."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 1):
        # Each goes first every other round; the first round warms up.
        for kind in list(steps) if number % 2 else list(steps)[::-1]:
            start = clock()
            steps[kind]()
            if number:
                seconds[kind].append(clock() - start)
    ratios = [nsa / dense for nsa, dense in zip(seconds["nsa"], seconds["dense"], strict=True)]
    return {
        "nsa_ms": statistics.median(seconds["nsa"]) * 1e3,
        "dense_ms": statistics.median(seconds["dense"]) * 1e3,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_child(kind: str) -> None:
    """In a process of its own: two steps, then the peak."""
    base = peak_mib()
    step = model_step(kind, packed=False)
    step()
    step()
    print(json.dumps({"base_mib": base, "peak_mib": peak_mib()}))


def memory(kind: str, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory-of", kind, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def table(rows: list[tuple[str, dict[str, float]]]) -> list[str]:
    lines = [
        "| what | NSA, ms | dense, ms | ratio (median of rounds; least to greatest) |",
        "|---|---|---|---|",
    ]
    for name, r in rows:
        spread = f"{r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f})"
        lines.append(f"| {name} | {r['nsa_ms']:.0f} | {r['dense_ms']:.0f} | {spread} |")
    return lines


def verdict(ratio: float) -> str:
    return f"{'met' if ratio <= TARGET else 'MISSED'} ({ratio:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description="What NSA costs over dense causal attention on the CPU.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="of the process, not of the wall")
    parser.add_argument("--skip-layers", action="store_true")
    parser.add_argument("--write", action="store_true", help="write into benchmarks/results/ too")
    parser.add_argument("--memory-of", choices=("nsa", "dense"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        memory_child(args.memory_of)
        return 0

    busy = support.load()
    clock = time.process_time if args.cpu_time else time.perf_counter
    held = {kind: memory(kind, args.threads) for kind in ("nsa", "dense")}
    rows = []
    for packed in (False, True):
        name = f"125 M model, S = {SEQUENCE}, " + (f"documents of {DOCUMENT}" if packed else "one document")
        steps = {kind: model_step(kind, packed=packed) for kind in ("nsa", "dense")}
        rows.append((name, compare(steps, args.rounds, clock)))
    del steps
    if not args.skip_layers:
        for sequence in (1024, 2048, 4096):
            for packed in (False, True):
                steps = {kind: layer_step(kind, sequence, packed=packed) for kind in ("nsa", "dense")}
                name = f"one layer, S = {sequence}, " + (
                    f"documents of {DOCUMENT}" if packed else "one document"
                )
                rows.append((name, compare(steps, args.rounds, clock)))

    nsa, dense = held["nsa"], held["dense"]
    peak = nsa["peak_mib"] / dense["peak_mib"]
    above = (nsa["peak_mib"] - nsa["base_mib"]) / (dense["peak_mib"] - dense["base_mib"])
    model = rows[0][1]
    speed = {kind: SEQUENCE / model[f"{kind}_ms"] * 1e3 for kind in ("nsa", "dense")}
    token_ms = {kind: model[f"{kind}_ms"] / SEQUENCE for kind in ("nsa", "dense")}
    what = "CPU time of the process" if args.cpu_time else "wall time"
    lines = [
        f"torch {torch.__version__}, {args.threads} threads, float32, batch 1, forward + backward;",
        f"{what}, median of {args.rounds} rounds, ratios within a round; {busy}.",
        "",
        *table(rows),
        "",
        f"- Tokens per second: NSA {speed['nsa']:.0f}, dense {speed['dense']:.0f}.",
        f"- A token takes {token_ms['nsa']:.2f} ms and {token_ms['dense']:.2f} ms.",
        f"- Peak resident set: NSA {nsa['peak_mib']:.0f} MiB, dense {dense['peak_mib']:.0f} MiB: {peak:.2f}.",
        f"- Peak above the {nsa['base_mib']:.0f} MiB that importing torch takes: {above:.2f}.",
        f"- Target, time of the model of one document at most {TARGET}: {verdict(model['ratio'])}.",
        f"- Target, memory at most {TARGET}: {verdict(above)}.",
    ]
    support.report("attention", "\n".join(lines), write=args.write)
    return 0 if model["ratio"] <= TARGET and above <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
