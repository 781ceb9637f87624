"""Which rank a process is by its environment, as launchers leave it: their own, and what is inherited."""

from __future__ import annotations

import pytest

from harness.ranks import UnknownRankError, told

_TASK = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (None, None)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8)),
        ({"RANK": "3"}, (3, None)),
        ({"RANK": ""}, (None, None)),
        ({"WORLD_SIZE": "2"}, (None, 2)),
        # Lightning starts its second process so, and its first one has it later.
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1"}, (1, 2)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2", "WORLD_SIZE": "12", "LOCAL_WORLD_SIZE": "4"}, (9, 12)),
        (_TASK, (3, 8)),
        ({**_TASK, "SLURM_NTASKS": "64"}, (3, 8)),  # a step of a part of the job
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        # mpirun inside a job starts its daemons by srun, one a node
        ({**_TASK, "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "16"}, (5, 16)),
    ],
)
def test_a_launcher_tells_rank_and_size(environ, expected):
    assert told(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        # torchrun as a task on each node: its ranks have RANK, and the task's number.
        ({**_TASK, "RANK": "25", "WORLD_SIZE": "64"}, (25, 64)),
        # An sbatch script: a number, and no step.
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (None, None)),
        ({**_TASK, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291"}, (None, None)),
        ({**_TASK, "SLURM_STEP_ID": ""}, (None, None)),
        # One task alone says nothing of what it starts.
        ({**_TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "LOCAL_RANK": "1"}, (1, None)),
        # A task on each of two nodes, which starts the ranks: Lightning's.
        ({**_TASK, "SLURM_PROCID": "1", "WORLD_SIZE": "64", "LOCAL_RANK": "3"}, (3, 64)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "2"}, (None, None)),
        ({"PMI_RANK": "1"}, (None, None)),
        ({"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}, (None, None)),
    ],
)  # fmt: skip
def test_what_was_inherited_from_around_is_not_taken_for_it(environ, expected):
    assert told(environ) == expected


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "two"}, "RANK is 'two'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "8"}, "LOCAL_RANK is 1 on node 1"),
    ],
)
def test_a_rank_that_cannot_be_told_is_not_guessed(environ, said):
    with pytest.raises(UnknownRankError, match=said):
        told(environ)
