"""Where the run computes: choosing the device, its precision and determinism, its peak, and MFU.

Peaks are dense figures from NVIDIA's data sheets; a device that is not listed has no peak and so no MFU:
never a guess. Not here: how many FLOPs the model needs (nsa.transformer), and ranks (nsa.distributed).
"""

from __future__ import annotations

import os
import random
import re
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from nsa.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from nsa.config import TrainConfig

DType = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What one device can do at most, in TFLOP/s: bf16 on tensor cores, dense, and fp32 without TF32."""

    name: str
    """A regular expression that the whole device name matches."""
    bf16_tflops: float
    fp32_tflops: float
    source: str


# The data sheets print bf16 with sparsity where they say so; half of it is the dense figure.
PEAKS = (
    Peak(
        name=r"NVIDIA A100(-SXM4|-PCIE)?-?( ?(40|80)GB)?( PCIe)?",
        bf16_tflops=312.0,
        fp32_tflops=19.5,
        source="NVIDIA A100 Tensor Core GPU data sheet, 2021: BFLOAT16 312 (624 with sparsity), FP32 19.5",
    ),
    Peak(
        name=r"NVIDIA H100 80GB HBM3",
        bf16_tflops=989.5,
        fp32_tflops=67.0,
        source="NVIDIA H100 data sheet, H100 SXM: BFLOAT16 1,979 with sparsity, FP32 67",
    ),
    Peak(
        name=r"NVIDIA H100 PCIe",
        bf16_tflops=756.0,
        fp32_tflops=51.0,
        source="NVIDIA H100 data sheet (2022), H100 PCIe: BFLOAT16 1,513 with sparsity, FP32 51",
    ),
    Peak(
        name=r"NVIDIA H100 NVL",
        bf16_tflops=835.5,
        fp32_tflops=60.0,
        source="NVIDIA H100 data sheet, H100 NVL: BFLOAT16 1,671 with sparsity, FP32 60",
    ),
    Peak(
        name=r"NVIDIA H200",
        bf16_tflops=989.5,
        fp32_tflops=67.0,
        source="NVIDIA H200 data sheet, H200 SXM: BFLOAT16 1,979 with sparsity, FP32 67",
    ),
    Peak(
        name=r"NVIDIA L4",
        bf16_tflops=121.0,
        fp32_tflops=30.3,
        source="NVIDIA L4 data sheet: BFLOAT16 242 with sparsity, FP32 30.3",
    ),
    Peak(
        name=r"NVIDIA L40S",
        bf16_tflops=362.05,
        fp32_tflops=91.6,
        source="NVIDIA L40S data sheet: BFLOAT16 362.05 (733 with sparsity), FP32 91.6",
    ),
    Peak(
        name=r"NVIDIA A10",
        bf16_tflops=125.0,
        fp32_tflops=31.2,
        source="NVIDIA A10 data sheet: BFLOAT16 125 (250 with sparsity), FP32 31.2",
    ),
)


def peak_flops(device_name: str, dtype: DType) -> float | None:
    """FLOP/s of one device at most, or None where no source is known (a CPU, a MIG slice, another GPU)."""
    for peak in PEAKS:
        if re.fullmatch(peak.name, device_name):
            return (peak.bf16_tflops if dtype == "bf16" else peak.fp32_tflops) * 1e12
    return None


def mfu(
    *, tokens_per_second: float, flops_per_token: float, peak: float | None, devices: int
) -> float | None:
    """Model FLOPs utilisation, 0 to 1; None where the peak is unknown."""
    return None if peak is None else tokens_per_second * flops_per_token / (peak * devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a rank computes on."""

    torch_device: torch.device
    name: str
    dtype: DType

    @property
    def is_cuda(self) -> bool:
        """Whether kernels run asynchronously, on CUDA events' time."""
        return self.torch_device.type == "cuda"

    @property
    def peak(self) -> float | None:
        """FLOP/s at most, in the run's precision."""
        return peak_flops(self.name, self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass: bf16 where asked for, nothing otherwise."""
        if self.dtype == "bf16":
            return torch.autocast(self.torch_device.type, dtype=torch.bfloat16)
        return nullcontext()

    def memory_bytes(self) -> tuple[int, int, int] | None:
        """Allocated, reserved and peak bytes by the allocator's books, without a sync; None on a CPU."""
        if not self.is_cuda:
            return None
        stats = torch.cuda.memory_stats(self.torch_device)
        names = ("allocated_bytes.all.current", "reserved_bytes.all.current", "allocated_bytes.all.peak")
        allocated, reserved, peak = (int(stats.get(name, 0)) for name in names)
        return allocated, reserved, peak

    def describe(self) -> str:
        """For the first line of a run."""
        threads = torch.get_num_threads()
        return self.name if self.is_cuda else f"cpu ({threads} thread{'s' if threads > 1 else ''})"


def choose(train: TrainConfig, *, local_rank: int) -> Device:
    """The device that `train` asks for; ConfigError where the machine has it not."""
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    # fp32 is fp32: NVIDIA's images set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, and factors would be cut to 10 bits.
    torch.set_float32_matmul_precision("highest")
    cuda = torch.cuda.is_available()
    if train.device == "cuda" and not cuda:
        built = (
            "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
        )
        raise ConfigError(f"train.device: cuda: {built}. Set it to auto or cpu, or mend the driver")
    if train.device == "cpu" or not cuda:
        return Device(torch_device=torch.device("cpu"), name="cpu", dtype=train.dtype)
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"train.device: {train.device}: local rank {local_rank} has no GPU of its own, {count} visible."
            f" Start at most {count} processes on this machine"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    if train.dtype == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"train.dtype: bf16: {torch.cuda.get_device_name(device)} cannot compute it. Set it to fp32"
        )
    return Device(torch_device=device, name=torch.cuda.get_device_name(device), dtype=train.dtype)


def out_of_memory(error: Exception) -> str | None:
    """What to say of an error that means that memory is out; None for any other."""
    remedy = (
        "Lower train.micro_batch (and raise train.accumulation by as much), or set"
        " train.activation_checkpointing to true"
    )
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory: {str(error).splitlines()[0]} {remedy}"
    # Of torch's allocator on the CPU; and of a size that no memory has.
    wanting = ("can't allocate memory", "Storage size calculation overflowed")
    if isinstance(error, RuntimeError) and any(words in str(error) for words in wanting):
        return f"out of memory: {remedy[0].lower()}{remedy[1:]}"
    return None


def prepare_environment() -> None:
    """What has to stand in the environment before CUDA starts."""
    # cuBLAS is deterministic only with a workspace of fixed size:
    # docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic(device: Device, seed: int) -> None:
    """Seed every generator, the same on all ranks, and choose deterministic kernels.

    On the CPU torch's kernels repeat to the bit for a given number of threads (tested), so nothing is asked
    of them. On CUDA, kernels that have no deterministic variant only warn: exactness ends there, training
    does not.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 — libraries draw from the global generator: it must be seeded and saved
    torch.manual_seed(seed)
    if device.is_cuda:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory costs a kernel for each allocation, and finds nothing here.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        warnings.filterwarnings("once", message=".*does not have a deterministic implementation.*")
        warnings.filterwarnings("once", message=".*non-deterministic algorithm.*")
