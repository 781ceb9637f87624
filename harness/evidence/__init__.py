"""The nouns of a Case: what was seen of one process tree at one moment, and what could not be seen.

Covered: the types, all frozen, and nothing but the types. Every piece that may be absent is a `Reading` or a
`Missing` with its reason. A Case that is loaded from disk equals the one that was saved (`harness.bundle`);
rules and renderers are pure functions of it.

Not covered: how anything is read (`harness.collect`), and what it means (`harness.rules`).
"""

from __future__ import annotations

from harness.evidence.beside import (
    Artifact,
    ArtifactKind,
    Disk,
    FlightDump,
    FlightEntry,
    Gpu,
    GpuProcess,
    KnownLine,
    Log,
    Setting,
    Source,
)
from harness.evidence.case import SCHEMA, Case, CollectError
from harness.evidence.pieces import Json, Missing, Piece, Reading, Reason, value
from harness.evidence.processes import (
    Access,
    Cgroup,
    Descriptor,
    DescriptorKind,
    FileFacts,
    FileLock,
    Host,
    Memory,
    Pipe,
    PipeEnd,
    Pressure,
    Process,
    Signals,
    Socket,
    Target,
    Traffic,
)
from harness.evidence.samples import (
    Activity,
    Frame,
    IoCounters,
    Local,
    LocalKind,
    ProcessSample,
    Running,
    Sample,
    StackMethod,
    Stacks,
    Syscall,
    ThreadSample,
    ThreadStack,
    Undisturbed,
)

__all__ = [
    "SCHEMA",
    "Access",
    "Activity",
    "Artifact",
    "ArtifactKind",
    "Case",
    "Cgroup",
    "CollectError",
    "Descriptor",
    "DescriptorKind",
    "Disk",
    "FileFacts",
    "FileLock",
    "FlightDump",
    "FlightEntry",
    "Frame",
    "Gpu",
    "GpuProcess",
    "Host",
    "IoCounters",
    "Json",
    "KnownLine",
    "Local",
    "LocalKind",
    "Log",
    "Memory",
    "Missing",
    "Piece",
    "Pipe",
    "PipeEnd",
    "Pressure",
    "Process",
    "ProcessSample",
    "Reading",
    "Reason",
    "Running",
    "Sample",
    "Setting",
    "Signals",
    "Socket",
    "Source",
    "StackMethod",
    "Stacks",
    "Syscall",
    "Target",
    "ThreadSample",
    "ThreadStack",
    "Traffic",
    "Undisturbed",
    "value",
]
