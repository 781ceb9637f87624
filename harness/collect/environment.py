"""The target's environment and command line, without its secrets.

Of the environment only a fixed list of names leaves the process, and even their values are scrubbed.
Command lines and log tails are shown with what looks like a secret replaced. Recognising secrets is a
guess: the list is the protection, the scrubbing a second net.

Not covered: the user's own text in logs beyond these patterns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "[hidden]"

NAMES = frozenset(
    """
    RANK LOCAL_RANK NODE_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_NAME
    ROLE_WORLD_SIZE MASTER_ADDR MASTER_PORT HARNESS_RUN_DIR HARNESS_RUN_ID HARNESS_ATTEMPT
    TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS
    TORCHELASTIC_USE_AGENT_STORE SLURM_JOB_ID SLURM_JOB_NAME SLURM_PROCID SLURM_LOCALID SLURM_NODEID
    SLURM_NTASKS SLURM_NNODES SLURM_STEP_ID SLURM_STEP_NUM_TASKS OMPI_COMM_WORLD_RANK
    OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER
    CUDA_LAUNCH_BLOCKING CUDA_DEVICE_MAX_CONNECTIONS NVIDIA_VISIBLE_DEVICES OMP_NUM_THREADS
    OMP_WAIT_POLICY OMP_PROC_BIND GOMP_SPINCOUNT KMP_BLOCKTIME KMP_AFFINITY MKL_NUM_THREADS
    OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS PYTHONUNBUFFERED PYTHONFAULTHANDLER PYTHONASYNCIODEBUG
    PYTHONHASHSEED PYTHONDEVMODE PYTHONMALLOC TOKENIZERS_PARALLELISM RAYON_NUM_THREADS
    HF_HUB_OFFLINE HF_DATASETS_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_ENABLE_HF_TRANSFER
    HF_HUB_DOWNLOAD_TIMEOUT HF_HOME TORCH_DISTRIBUTED_DEBUG TORCH_CPP_LOG_LEVEL TORCH_LOGS
    TORCH_SHOW_CPP_STACKTRACES TORCH_NCCL_ASYNC_ERROR_HANDLING TORCH_NCCL_BLOCKING_WAIT
    TORCH_NCCL_DUMP_ON_TIMEOUT TORCH_NCCL_ENABLE_MONITORING TORCH_NCCL_DEBUG_INFO_TEMP_FILE
    TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC TORCH_NCCL_TRACE_BUFFER_SIZE TORCH_FR_BUFFER_SIZE TORCH_FR_DUMP_TEMP_FILE
    TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_COMPILE_THREADS TORCH_COMPILE_DISABLE TORCHDYNAMO_DISABLE
    PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF TORCH_EXTENSIONS_DIR NCCL_DEBUG NCCL_DEBUG_SUBSYS
    NCCL_DEBUG_FILE NCCL_SOCKET_IFNAME NCCL_IB_DISABLE NCCL_P2P_DISABLE NCCL_SHM_DISABLE
    NCCL_ASYNC_ERROR_HANDLING NCCL_BLOCKING_WAIT NCCL_TIMEOUT GLOO_SOCKET_IFNAME TP_SOCKET_IFNAME
    XLA_FLAGS TF_CPP_MIN_LOG_LEVEL DEBIAN_FRONTEND TERM CI
    """.split()  # noqa: SIM905 - ninety names read better as text
)

# Not as the beginning of a longer word: tokenizer, tokens, author.
_WORD = (
    r"(?:pass(?:word|wd|phrase)?|secret|token|(?:api|access|private)[-_]?key|credentials?|auth(?:orization)?|bearer)"
    r"(?![a-z])"
)
# --token=…, API_KEY=…, "password": …, X-Api-Key: …
_ASSIGNED = re.compile(
    rf"(?i)(?P<name>[\w.-]*(?:{_WORD}|_key)[\w.-]*[\"']?\s*[=:]\s*[\"']?)(?P<value>(?:Bearer\s+)?[^\s\"'&,;]+)"
)
_OPTION = re.compile(rf"(?i)--?[\w.-]*(?:{_WORD}|[-_]key)[\w.-]*")
_URL = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)[^/\s@]+@")
# Tokens that say what they are: Hugging Face, OpenAI, GitHub, AWS, Slack, GitLab, JWT.
_KNOWN = re.compile(
    r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[opsur]_\w{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,}"
    r"|glpat-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


def scrub(text: str) -> str:
    """`text` with what looks like a secret replaced."""
    text = _URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _ASSIGNED.sub(rf"\g<name>{HIDDEN}", text)
    return _KNOWN.sub(HIDDEN, text)


def scrub_command(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command line; the word after `--token` goes too."""
    scrubbed: list[str] = []
    hide_next = False
    for argument in arguments:
        hide = hide_next and not argument.startswith("-")
        hide_next = bool(_OPTION.fullmatch(argument))
        scrubbed.append(HIDDEN if hide else scrub(argument)[:4096])
    return tuple(scrubbed)


def select(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The variables on the list, scrubbed."""
    return {name: scrub(text)[:1024] for name, text in sorted(environment) if name in NAMES}


def parse(data: bytes) -> list[tuple[str, str]]:
    """/proc/PID/environ: `NAME=value` with NUL between; a process may have overwritten it with anything."""
    split = (item.partition("=") for item in data.decode("utf-8", "surrogateescape").split("\0"))
    return [(name, text) for name, separator, text in split if separator]
