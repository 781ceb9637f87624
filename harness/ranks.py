"""Which rank a process is, by what its launcher left in the environment: pure, from the environment alone.

    RANK, WORLD_SIZE                              torchrun, accelerate, deepspeed; whoever has it is that rank
    OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE    mpirun of Open MPI
    PMI_RANK, PMI_SIZE                            mpirun of MPICH and Intel MPI, srun --mpi=pmi2
    SLURM_PROCID, SLURM_STEP_NUM_TASKS            srun
    LOCAL_RANK, NODE_RANK                         Lightning, of the processes that it starts itself

What a process starts inherits all of them. A pair of a launcher around counts for nothing where RANK is
there, where it is one task alone (`srun torchrun …`), or where a WORLD_SIZE says that there are other ranks
than it started (one task a node, which starts them). An sbatch script has SLURM_PROCID=0 and is no task. Not
here: what torch itself says once a process group is joined. Imported at `emit.open`; standard library only.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PAIRS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_SLURM_STEPS = 0xFFFF_FFF0  # from here on, a step's number means a batch script, an interactive shell, …


class UnknownRankError(Exception):
    """Several ranks are there, and which of them this is cannot be told."""


def told(environ: "Mapping[str, str]") -> "tuple[int | None, int | None]":
    """Rank and world size, None where nothing speaks of them; UnknownRankError."""
    text = environ.get("RANK")
    size = _number(environ.get("WORLD_SIZE"))
    if text:
        rank = _number(text)
        if rank is None:
            raise UnknownRankError(f"RANK is {text[:40]!r}, which is no number")
        return rank, size
    for name, size_name in _PAIRS:
        rank, tasks = _number(environ.get(name)), _number(environ.get(size_name))
        if rank is None or tasks is None or not rank < tasks or tasks == 1 or size not in (None, tasks):
            continue
        step = _number(environ.get("SLURM_STEP_ID"))
        if name != "SLURM_PROCID" or (step is not None and step < _SLURM_STEPS):
            return rank, tasks
    local = _number(environ.get("LOCAL_RANK"))
    if local is None:
        return None, size
    node = _number(environ.get("NODE_RANK") or environ.get("GROUP_RANK")) or 0
    here = _number(environ.get("LOCAL_WORLD_SIZE"))
    if node and here is None:
        raise UnknownRankError(f"LOCAL_RANK is {local} on node {node}, and RANK is not set")
    return node * (here or 0) + local, size


def _number(text: "str | None") -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
