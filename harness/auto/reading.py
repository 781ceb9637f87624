"""Reads scalars without ever waiting for a device: from the host at once, from CUDA later or not at all.

A value on a CUDA device is copied into pinned memory on the stream that computes it, with an event behind it
that is only ever asked (`query`), never waited for. The one-off allocation of the pinned memory is the only
call that a driver may order other work around. Not verified on a device: the CUDA half has run against its
contract alone. Other devices, DTensors and other tensor classes are absent: to read them is to wait, or to
communicate.
"""

import sys
from time import monotonic

from harness import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Scalar: TypeAlias = "float | Late | None"

_SLOTS = 512
_MEMORY_EVERY_SECONDS = 0.5


class Late:
    """A value that is on its way from a device."""

    __slots__ = ("_event", "_pool", "_slot", "_value")

    def __init__(self, pool: "_Pinned", slot: int, event: "Any") -> None:
        self._pool, self._slot, self._event = pool, slot, event
        self._value: float | None = None

    def get(self) -> float | None:
        """The value, once it is here."""
        if self._value is None and self._slot >= 0 and self._event.query():
            self._value = self._pool.take(self._slot)
            self._slot = -1
        return self._value


class _Pinned:
    """Pinned memory for so many values; a slot is free again when its value was taken."""

    def __init__(self, torch: "Any") -> None:
        self._buffer = torch.empty(_SLOTS, dtype=torch.float32, pin_memory=True)
        self._free = list(range(_SLOTS))

    def put(self, torch: "Any", tensor: "Any") -> Late | None:
        """Start to copy; None where all slots wait for a device that lags far behind."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._buffer[slot].copy_(tensor.reshape(()), non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(tensor.device))
        return Late(self, slot, event)

    def take(self, slot: int) -> float:
        self._free.append(slot)
        value: float = self._buffer[slot].item()
        return value


def tokens(inputs: "Any") -> int | None:
    """The tokens of a batch: of `input_ids`, without the padding where the mask lies on the host."""
    ids: Any = inputs.get("input_ids") if hasattr(inputs, "get") else None
    if not hasattr(ids, "numel"):
        return None
    mask: Any = inputs.get("attention_mask")
    if getattr(mask, "shape", None) == ids.shape and mask.device.type == "cpu":
        return int(mask.count_nonzero())
    return int(ids.numel())


class Reader:
    """Reads losses, norms and learning rates of one process."""

    def __init__(self) -> None:
        self._pinned: _Pinned | None = None
        self._memory_at = 0.0
        self.on_device = False  # a value was met that a device computes: the host's clock tells little

    def scalar(self, tensor: "Any") -> "Scalar":
        """The value of a tensor with one element; None where it cannot be had without waiting."""
        if tensor.__class__ is float:
            number: float = tensor
            return number
        torch = sys.modules["torch"]
        if tensor.__class__ is not torch.Tensor:
            return None
        if tensor.is_cpu:
            try:
                return float(tensor.item())
            except (
                RuntimeError,
                TypeError,
            ):  # several elements, complex, or a functorch wrapper without a value
                return None
        if tensor.numel() != 1 or tensor.is_complex():
            return None
        self.on_device = True
        if not tensor.is_cuda or self.is_capturing():
            return None
        if self._pinned is None:
            self._pinned = _Pinned(torch)
        return self._pinned.put(torch, tensor.detach())

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured on this stream."""
        return self.on_device and bool(sys.modules["torch"].cuda.is_current_stream_capturing())

    def rate(self, rate: "Any") -> float:
        """A learning rate; absent for one that a device holds."""
        if rate.__class__ is float:
            number: float = rate
            return number
        device = getattr(rate, "device", None)
        if device is not None and device.type != "cpu":
            return wire.ABSENT
        return float(rate)

    def memory(self) -> "tuple[int, int, int] | None":
        """(allocated, reserved, peak) of torch's CUDA allocator, now and then; where there is a device."""
        now = monotonic()
        if now < self._memory_at:
            return None
        self._memory_at = now + _MEMORY_EVERY_SECONDS
        torch = sys.modules["torch"]
        if not torch.cuda.is_available() or not torch.cuda.is_initialized():
            return None
        stats = torch._C._cuda_memoryStats(torch.cuda.current_device())  # noqa: SLF001 (memory_stats sorts it all)
        allocated = stats["allocated_bytes"]["all"]
        return allocated["current"], stats["reserved_bytes"]["all"]["current"], allocated["peak"]
