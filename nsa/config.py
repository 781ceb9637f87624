"""The validated configuration of a training run; every field documented where it stands.

Covers keys, types, ranges and combinations that cannot work, each said in one line before torch is
imported. Not here: reading YAML (nsa.configfile), and what only the machine can tell (is there a CUDA
device? are the files there?), which nsa.device and nsa.data say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from nsa import configerrors, configfile
from nsa.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

GPT2_VOCABULARY = 50257
# 256 bytes and the end-of-text token: the least that can write any text.
SMALLEST_VOCABULARY = 257
# No wait is without a limit; torch's own clock overflows on limits of centuries.
_WEEK_SECONDS = 7 * 24 * 3600.0

# Beyond it torch's sizes overflow, and nothing that is counted here is near it.
_MOST = 2**31 - 1
# Divisors that are looked for, to be suggested.
_MOST_GROUPS = 1024

Count = Annotated[int, Field(ge=1, le=_MOST)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Problem = tuple[str, str]
"""A key below the section that reports it, and what is wrong with it."""


class _Section(BaseModel):
    """Strict (no '3' for 3, no true for 1), closed to unknown keys, and frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    def problems(self) -> Iterator[Problem]:
        """Combinations of valid values that cannot work."""
        yield from ()

    @model_validator(mode="after")
    def _refuse_the_impossible(self) -> _Section:
        found = tuple(self.problems())
        if found:
            raise PydanticCustomError("impossible", "cannot work", {"problems": found})
        return self


class SparseConfig(_Section):
    """The three branches of Native Sparse Attention, in the paper's symbols."""

    compress_block: Count = 32  # l, tokens in a compressed block
    compress_stride: Count = 16  # d, tokens between the starts of two of them
    select_block: Count = 64  # l', tokens in a selected block
    select_count: Count = 16  # n, selected blocks, initial and local ones included
    initial_blocks: Annotated[int, Field(ge=0)] = 1  # always selected, from the document's start
    local_blocks: Count = 2  # always selected: the block a token stands in, and those before it
    window: Count = 512  # w, the keys a query sees in the window branch, itself included

    def problems(self) -> Iterator[Problem]:
        """Sizes that do not divide; more forced blocks than blocks."""
        stride = self.compress_stride
        for key, size in (("compress_block", self.compress_block), ("select_block", self.select_block)):
            if size % stride:
                yield key, f"{size} is not a multiple of compress_stride ({stride}). Make it one"
        if self.select_block < self.compress_block:
            yield (
                "select_block",
                f"{self.select_block} is less than compress_block ({self.compress_block}). Make it as large",
            )
        forced = self.initial_blocks + self.local_blocks
        if self.select_count < forced:
            what = f"{self.select_count} is less than initial_blocks + local_blocks ({forced})"
            yield "select_count", f"{what}. Raise it to {forced} or more"


class ModelConfig(_Section):
    """The shape of the model."""

    dim: Count  # width of the residual stream
    layers: Count
    heads: Count  # query heads
    kv_groups: Count  # key and value heads; each serves heads / kv_groups query heads
    head_dim: Count  # default: dim / heads
    ffn_dim: Count  # inner width of SwiGLU; default: 8/3 · dim, rounded up to a multiple of 64
    vocab_size: Count | None = None  # rows of the embedding; default: the tokenizer's, more pads it
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    tie_embeddings: bool = True  # input embedding and output projection are one matrix
    attention: Literal["nsa", "dense"] = "nsa"
    nsa: SparseConfig = SparseConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_sizes(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        # 2 and 64 where a size cannot be derived: what stands in the way is reported by itself.
        dim = data["dim"] if type(data.get("dim")) is int and data["dim"] > 0 else None
        heads = data["heads"] if type(data.get("heads")) is int and data["heads"] > 0 else None
        if data.get("head_dim") is None:
            if dim and heads and dim % heads:
                what = f"{dim} is not divisible by heads ({heads}). Change one, or set head_dim"
                raise PydanticCustomError("impossible", "cannot work", {"problems": (("dim", what),)})
            filled["head_dim"] = dim // heads if dim and heads else 2
        if data.get("ffn_dim") is None:
            filled["ffn_dim"] = -(-8 * dim // 3 // 64) * 64 if dim else 64
        return filled

    def problems(self) -> Iterator[Problem]:
        """Heads that cannot be grouped or rotated."""
        if self.heads % self.kv_groups:
            fitting = [n for n in range(1, min(self.heads, _MOST_GROUPS) + 1) if self.heads % n == 0]
            use = ", ".join(map(str, fitting))
            yield "kv_groups", f"{self.kv_groups} does not divide heads ({self.heads}). Use one of {use}"
        if self.head_dim % 2:
            yield "head_dim", f"{self.head_dim} is odd; rotary embedding turns pairs. Make it even"


class TokenizerConfig(_Section):
    """How text becomes numbers."""

    kind: Literal["byte", "bpe", "gpt2"]  # bytes; a BPE trained on the source's text; GPT-2's from the hub
    vocab_size: Annotated[int, Field(ge=SMALLEST_VOCABULARY, le=_MOST)] | None = None  # bpe only
    path: str | None = None  # a folder in GPT-2's file format (vocab.json, merges.txt) instead

    def problems(self) -> Iterator[Problem]:
        """A vocabulary size where it is fixed, or none where it is free."""
        if self.kind == "bpe" and self.vocab_size is None and self.path is None:
            yield "vocab_size", "is missing, and kind bpe is trained to a size. Set it, for instance to 1024"
        if self.kind != "bpe" and self.vocab_size is not None:
            size = SMALLEST_VOCABULARY if self.kind == "byte" else GPT2_VOCABULARY
            yield (
                "vocab_size",
                f"{self.vocab_size} cannot be chosen for kind {self.kind} (it has {size}). Remove it",
            )
        if self.kind == "byte" and self.path is not None:
            yield (
                "path",
                f"{configfile.shown(self.path)} is of no use to kind byte. Remove it, or use kind bpe",
            )


class DataConfig(_Section):
    """Where the text comes from, and how it is cut."""

    source: Literal["fineweb-edu", "local-docs", "files"]
    paths: Annotated[tuple[str, ...], Field(strict=False)] = ()  # files: .parquet and .jsonl, globs allowed
    dataset: str = "HuggingFaceFW/fineweb-edu"  # fineweb-edu: the repository on the hub
    subset: str = "sample-10BT"  # fineweb-edu: its configuration
    text_column: str = "text"
    sequence_length: Annotated[int, Field(ge=2, le=_MOST)]  # S, tokens the model sees; with targets, S + 1
    truncate: bool = False  # cut each document to S tokens (loses text, counted) instead of packing
    cache_dir: str | None = None  # default: the user's cache folder
    # A silent source is given up after this.
    stall_timeout_seconds: Annotated[float, Field(gt=0, le=_WEEK_SECONDS)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 5  # attempts after the first, on a failing source
    # Share of the documents that is held out, chosen by a hash of their text.
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    eval_documents: Count | None = None  # at most so many of the held-out documents

    def problems(self) -> Iterator[Problem]:
        """Paths without the source that reads them, or the other way round."""
        if self.source == "files" and not self.paths:
            yield "paths", "is empty, and source files reads nothing else. List .parquet or .jsonl files"
        if self.source != "files" and self.paths:
            yield "paths", f"is of no use to source {self.source}. Remove it, or set source to files"


class TrainConfig(_Section):
    """The loop."""

    steps: Count  # optimizer steps
    micro_batch: Count  # sequences in one forward pass, on each rank
    accumulation: Count = 1  # forward passes in one optimizer step
    clip_norm: Annotated[float, Field(gt=0)] = 1.0  # gradient norm above which it is scaled down
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and optimizer stay fp32
    compile: bool = False  # torch.compile
    activation_checkpointing: bool = False  # recompute layers in the backward pass: less memory, more time
    # Of torch on the CPU; default: torch's own choice. No machine has more, and OpenMP dies of a million.
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    log_every: Count = 1  # steps between two printed lines
    tensorboard: bool = False  # write events into the run's folder `tensorboard`
    distributed_timeout_seconds: Annotated[float, Field(gt=0, le=_WEEK_SECONDS)] = 600.0  # of one collective


class OptimizerConfig(_Section):
    """AdamW; matrices decay, gains and biases do not."""

    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class ScheduleConfig(_Section):
    """The learning rate: linear warm-up, cosine to the floor, flat after."""

    kind: Literal["cosine"] = "cosine"
    peak: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]  # optimizer steps
    floor: Ratio = 0.1  # what is left at the end, as a ratio of the peak


class EvalConfig(_Section):
    """Loss on held-out documents; always at the end as well."""

    every: Annotated[int, Field(ge=0)] = 0  # steps; 0: at the end only
    batches: Count = 16  # micro-batches in one evaluation, over all ranks


class CheckpointConfig(_Section):
    """Saved states; always at the end and at a stop as well."""

    every: Annotated[int, Field(ge=0)] = 0  # steps; 0: at the end only
    keep: Count = 3  # the newest so many stay


class Config(_Section):
    """All of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # names the run's folder
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1337
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    def problems(self) -> Iterator[Problem]:
        """What cannot work across sections."""
        warmup, steps = self.schedule.warmup_steps, self.train.steps
        if warmup > steps:
            yield (
                "schedule.warmup_steps",
                f"{warmup} is more than train.steps ({steps}). Lower it, or train longer",
            )
        needed = {"byte": SMALLEST_VOCABULARY, "gpt2": GPT2_VOCABULARY}.get(
            self.tokenizer.kind, self.tokenizer.vocab_size
        )
        rows = self.model.vocab_size
        if rows is not None and needed is not None and rows < needed:
            yield (
                "model.vocab_size",
                f"{rows} is less than the tokenizer's ({needed}). Raise it, or remove it",
            )


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check `path` with `key=value` overrides; ConfigError, one line a problem."""
    raw = configfile.read(path)
    given = configfile.apply_overrides(raw, overrides)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        found = [
            problem
            for details in error.errors(include_url=False)
            for problem in configerrors.worded(details, Config)
        ]
        # An unknown key first: the missing one beside it is usually the same, misspelled.
        found.sort(key=lambda problem: "unknown key" not in problem[1])
        raise ConfigError(configfile.lines(path, found, given)) from None
