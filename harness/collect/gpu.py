"""GPUs through NVML, in a child that can be killed: a sick driver answers never.

`read_gpus` asks once; `python -m harness.collect.gpu` is its child. With `--serve` the child stays and
answers each line on stdin with a line of JSON, until stdin ends: for who asks again and again
(`supervise.gpus`). Not covered: torch's view of its memory.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from harness import codec
from harness.collect.deadline import Killed, missing_from, python_module, run
from harness.errors import RecordError
from harness.evidence import Gpu, GpuProcess, Missing, Piece, Reading

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

NO_DRIVER = Missing(reason="unavailable", detail="no NVIDIA driver")
NO_BINDING = Missing(reason="unavailable", detail="nvidia-ml-py is not installed")
# Any of these where a driver is loaded: Linux, Tegra, WSL. Without them no child is started for nothing.
_DRIVER_MARKS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/nvhost-ctrl", "/dev/nvgpu", "/dev/dxg")


# What the child prints.
ANSWER: Any = Reading[tuple[Gpu, ...]] | Missing


def driver_is_there() -> bool:
    """Whether an NVIDIA driver is loaded; without one there is nothing to ask."""
    return any(map(os.path.exists, _DRIVER_MARKS))


def read_gpus(seconds: float) -> Reading[tuple[Gpu, ...]] | Missing:
    """All GPUs that NVML shows, within `seconds`."""
    if not driver_is_there():
        return NO_DRIVER
    try:
        done = run(python_module("harness.collect.gpu"), seconds, max_bytes=2**20)
    except OSError as error:
        return missing_from(error)
    if isinstance(done, Killed):
        return Missing(reason="timed_out", detail=f"NVML: {done.why}")
    try:
        answer: Piece[tuple[Gpu, ...]] = codec.loads(ANSWER, done.output)
    except RecordError:
        last = done.errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Missing(reason="unavailable", detail=f"NVML's reader failed: {last[:200]}")
    return answer


def query() -> Piece[tuple[Gpu, ...]]:
    """All GPUs, in this process: may hang with the driver."""
    try:
        import pynvml
    except ImportError:
        return NO_BINDING
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        known = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if getattr(error, "value", None) in known:
            return NO_DRIVER
        return Missing(reason="unavailable", detail=f"NVML: {error}")
    try:
        count = pynvml.nvmlDeviceGetCount()
        return Reading(value=tuple(_gpu(pynvml, index) for index in range(count)))
    except pynvml.NVMLError as error:
        return Missing(reason="unavailable", detail=f"NVML: {error}")


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(read: Callable[[], T]) -> Piece[T]:
        try:
            return Reading(value=read())
        except nvml.NVMLError as error:
            denied = getattr(error, "value", None) == nvml.NVML_ERROR_NO_PERMISSION
            return Missing(reason="denied" if denied else "unavailable", detail=f"NVML: {error}")

    memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        utilization_ratio=ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
        memory_used_bytes=Reading(value=int(memory.value.used)) if isinstance(memory, Reading) else memory,
        memory_total_bytes=Reading(value=int(memory.value.total)) if isinstance(memory, Reading) else memory,
        power_watts=ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        temperature_celsius=ask(
            lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        performance_state=ask(lambda: int(nvml.nvmlDeviceGetPerformanceState(handle))),
        throttle_reasons=ask(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        processes=ask(lambda: tuple(map(_process, nvml.nvmlDeviceGetComputeRunningProcesses(handle)))),
    )


def _process(raw: Any) -> GpuProcess:
    used = raw.usedGpuMemory
    not_told = Missing(reason="unavailable", detail="the driver does not tell here")
    return GpuProcess(pid=int(raw.pid), used_bytes=not_told if used is None else Reading(value=int(used)))


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def serve() -> None:
    """Answer until stdin ends, which it does with whoever asks, however that ends."""
    for _ in sys.stdin.buffer:
        sys.stdout.write(json.dumps(codec.encode(query())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.stdout.buffer.write(codec.dumps(query()))
