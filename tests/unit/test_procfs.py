"""What the parsers make of /proc's text: one property each."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003

import pytest

from harness.collect import (
    cgroup,
    descriptors,
    environment,
    locks,
    procfs,
    procparse,
    sockets,
    syscalls,
    tree,
)
from harness.collect.access import Rights, why_denied
from harness.collect.deadline import NotSeen
from harness.evidence import Missing, Reading, Running, Syscall

STAT = (
    b"%d (%s) S 7 8 9 0 -1 4194560 11 0 13 0 15 16 0 0 20 0 3 0 12345 1 1 18446744073709551615 1 1 1 1 1 "
    b"0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)


@pytest.mark.parametrize("name", [b"python", b"a) b (c", b") R 1 1 (", b"\xff\x1b[2J", b""])
def test_a_process_name_may_hold_anything(name):
    stat = procparse.parse_stat(STAT % (4711, name))
    assert (stat.pid, stat.state, stat.ppid, stat.start_time_ticks) == (4711, "S", 7, 12345)
    assert os.fsencode(stat.name) == name


def test_counters_of_a_process_stand_where_the_manual_says():
    stat = procparse.parse_stat(STAT % (1, b"x"))
    assert (stat.minor_faults, stat.major_faults, stat.user_ticks, stat.system_ticks) == (11, 13, 15, 16)
    assert (stat.thread_count, stat.session, stat.process_group, stat.kernel_thread) == (3, 9, 8, False)


def test_our_own_process_reads_as_what_it_is():
    proc = procfs.Proc()
    stat = proc.stat(os.getpid())
    assert stat.ppid == os.getppid()
    assert stat.state == "R"
    assert proc.memory(os.getpid()).resident_bytes > 2**20
    assert os.getpid() in [thread.tid for thread in proc.threads(os.getpid())]


def test_a_reused_pid_is_not_the_process():
    proc = procfs.Proc()
    with pytest.raises(NotSeen, match="belongs to another one now"):
        proc.same(os.getpid(), proc.stat(os.getpid()).start_time_ticks - 1)


def test_a_running_thread_has_no_system_call():
    assert procparse.parse_syscall(b"running\n", "x86_64") == Running()


def test_a_system_call_has_its_name_and_arguments():
    line = b"202 0x7f00 0x189 0x0 0x0 0x0 0xffffffffffffffff 0x7ffe 0x7f01\n"
    assert procparse.parse_syscall(line, "x86_64") == Syscall(
        number=202, name="futex", arguments=(0x7F00, 0x189, 0, 0, 0, 2**64 - 1)
    )
    assert procparse.parse_syscall(b"98" + line[3:], "aarch64").name == "futex"


def test_blocked_outside_of_a_system_call():
    assert procparse.parse_syscall(b"-1 0x7ffe 0x7f01\n", "x86_64") == Syscall(
        number=-1, name="none", arguments=()
    )


def test_an_unknown_system_call_keeps_its_number():
    assert syscalls.name(999, "x86_64") == "syscall 999"
    assert syscalls.name(202, "riscv64") == "syscall 202"


def test_signal_masks_tell_who_handles_what():
    status = procparse.parse_status(
        b"Name:\tx\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000040000\nSigBlk:\t0\nSigIgn:\t1000\n"
        b"SigCgt:\t0000000000000200\n"
    )
    signals = procparse.parse_signals(status)
    assert signals.catches(10)
    assert not signals.catches(12)
    assert signals.pending == 0x40001


def test_io_counters():
    data = (
        b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n"
    )
    io = procparse.parse_io(data)
    assert (io.read_chars, io.write_chars, io.read_bytes, io.write_bytes) == (1, 2, 5, 6)


def test_pressure_without_full():
    found = procparse.parse_pressure(b"some avg10=1.50 avg60=0.25 avg300=0.00 total=2500000\n", "cpu")
    assert (found.some_avg10, found.some_total_seconds, found.full_avg10) == (1.5, 2.5, 0.0)


# ── descriptors, sockets, locks ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("link", "kind"),
    [
        ("pipe:[1]", "pipe"),
        ("socket:[1]", "socket"),
        ("anon_inode:[eventfd]", "anon"),
        ("/dev/pts/3", "tty"),
        ("/dev/null", "device"),
        ("/dev/shm/x", "file"),
        ("/tmp/pipe:[1]", "file"),
        ("/tmp/x (deleted)", "file"),
        ("net:[4026531840]", "other"),
    ],
)
def test_kind_of_a_descriptor(link, kind):
    assert descriptors.kind_of(link) == kind


def test_open_files_of_ours(tmp_path):
    with (tmp_path / "é\x1b[2J").open("w") as file:
        file.write("12345")
        file.flush()
        found = {each.number: each for each in descriptors.of_process(procfs.Proc(), os.getpid())}
        mine = found[file.fileno()]
    assert (mine.kind, mine.access, mine.position) == ("file", "write", 5)
    assert isinstance(mine.file, Reading)
    assert mine.file.value.size_bytes == 5
    assert mine.target == str(tmp_path / "é\x1b[2J")


def test_both_ends_of_a_pipe_are_found():
    read_end, write_end = os.pipe()
    try:
        inode = os.fstat(read_end).st_ino
        (pipe,) = descriptors.pipes(procfs.Proc(), [inode])
        mine = {(end.descriptor, end.access) for end in pipe.ends if end.pid == os.getpid()}
    finally:
        os.close(read_end)
        os.close(write_end)
    assert mine == {(read_end, "read"), (write_end, "write")}


@pytest.mark.skipif(sys.byteorder != "little", reason="the line was recorded on a little-endian machine")
def test_a_tcp_socket_with_queues_and_peer():
    data = (
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        b"   0: 0100007F:1F90 0200000A:01BB 01 00000010:00000020 00:00000000 00000003 1000 0 4242 1 0 20 4\n"
    )
    (found,) = sockets.parse_inet(data, "tcp")
    assert (found.local, found.peer, found.state) == ("127.0.0.1:8080", "10.0.0.2:443", "ESTABLISHED")
    assert (found.send_queue_bytes, found.receive_queue_bytes, found.retransmits, found.inode) == (
        16,
        32,
        3,
        4242,
    )


@pytest.mark.skipif(sys.byteorder != "little", reason="the line was recorded on a little-endian machine")
def test_ipv6_addresses_and_mapped_ones():
    head = b"head\n"
    line = b" 0: %s:0050 " + b"0" * 32 + b":0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0\n"
    (loopback,) = sockets.parse_inet(head + line % b"00000000000000000000000001000000", "tcp6")
    (mapped,) = sockets.parse_inet(head + line % b"0000000000000000FFFF00000100007F", "tcp6")
    assert (loopback.local, loopback.state, mapped.local) == ("[::1]:80", "LISTEN", "127.0.0.1:80")


def test_unix_sockets_with_spaces_in_their_path():
    data = (
        b"Num RefCount Protocol Flags Type St Inode Path\n0: 00000003 00000000 00000000 0001 03 77 /tmp/a b\n"
    )
    (found,) = sockets.parse_unix(data)
    assert (found.inode, found.state, found.local) == (77, "CONNECTED", "/tmp/a b")


def test_locks_held_and_waited_for():
    data = (
        b"1: FLOCK  ADVISORY  WRITE 811 fe:1b:1234 0 EOF\n"
        b"1: -> FLOCK  ADVISORY  WRITE 812 fe:1b:1234 0 EOF\n"
        b"2: OFDLCK ADVISORY  READ -1 00:05:9 0 EOF\nrubbish\n"
    )
    held, waiting, description = locks.parse(data)
    assert (held.pid, held.device, held.inode, held.waiting) == (811, "254:27", 1234, False)
    assert (waiting.pid, waiting.waiting) == (812, True)
    assert (description.kind, description.pid) == ("OFDLCK", -1)


# ── control groups ──────────────────────────────────────────────────────────────────────────────────────────


def recorded_proc(tmp_path: Path, membership: str) -> procfs.Proc:
    (tmp_path / "proc" / "1").mkdir(parents=True)
    (tmp_path / "proc" / "1" / "cgroup").write_text(membership)
    return procfs.Proc(tmp_path / "proc")


@pytest.fixture(autouse=True)
def real_proc_afterwards():
    yield
    procfs.Proc()


def test_limits_of_version_2(tmp_path):
    proc = recorded_proc(tmp_path, "0::/job\n")
    job = tmp_path / "cgroup" / "job"
    job.mkdir(parents=True)
    for name, text in {
        "memory.max": "1048576",
        "memory.current": "4096",
        "memory.events": "low 0\noom 1\noom_kill 2\n",
        "cpu.max": "150000 100000",
        "cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 3\nthrottled_usec 2500000\n",
        "cgroup.freeze": "0",
        "cpu.pressure": "some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n",
        "memory.pressure": "some avg10=2.00 avg60=0.00 avg300=0.00 total=1\n",
        "io.pressure": "some avg10=3.00 avg60=0.00 avg300=0.00 total=1\n",
    }.items():
        (job / name).write_text(text)
    found = cgroup.of_process(proc, 1, tmp_path / "cgroup")
    assert (found.version, found.memory_limit_bytes, found.oom_kills) == (
        2,
        Reading(value=2**20),
        Reading(value=2),
    )
    assert (found.cpu_limit_cores, found.throttled_seconds) == (Reading(value=1.5), Reading(value=2.5))
    assert found.frozen == Reading(value=False)
    assert isinstance(found.pressure, Reading)
    assert [each.some_avg10 for each in found.pressure.value] == [1.0, 2.0, 3.0]


def test_no_limit_is_an_absence_not_a_number(tmp_path):
    proc = recorded_proc(tmp_path, "0::/job\n")
    job = tmp_path / "cgroup" / "job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("max\n")
    (job / "cpu.max").write_text("max 100000\n")
    found = cgroup.of_process(proc, 1, tmp_path / "cgroup")
    no_limit = Missing(reason="unavailable", detail="no limit is set")
    assert (found.memory_limit_bytes, found.cpu_limit_cores) == (no_limit, no_limit)


def test_limits_of_version_1(tmp_path):
    proc = recorded_proc(tmp_path, "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
    for controller, files in {
        "memory": {
            "memory.limit_in_bytes": "2097152",
            "memory.usage_in_bytes": "5",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
        "cpu": {
            "cpu.cfs_quota_us": "50000",
            "cpu.cfs_period_us": "100000",
            "cpu.stat": "nr_periods 1\nnr_throttled 1\nthrottled_time 1500000000\n",
        },
    }.items():
        (tmp_path / "cgroup" / controller / "job").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "cgroup" / controller / "job" / name).write_text(text)
    found = cgroup.of_process(proc, 1, tmp_path / "cgroup")
    assert (found.version, found.memory_limit_bytes, found.cpu_limit_cores) == (
        1,
        Reading(value=2**21),
        Reading(value=0.5),
    )
    assert (found.oom_kills, found.throttled_seconds) == (Reading(value=1), Reading(value=1.5))


def test_a_membership_that_climbs_out_is_not_followed(tmp_path):
    proc = recorded_proc(tmp_path, "0::/../../etc\n")
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup" / "memory.max").write_text("7")
    assert cgroup.of_process(proc, 1, tmp_path / "cgroup").memory_limit_bytes == Reading(value=7)


# ── the tree ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_tree_begins_at_the_launcher_and_crosses_sessions(tmp_path):
    for pid, ppid, command in (
        (10, 1, b"bash\0"),
        (20, 10, b"/usr/bin/python\0/opt/bin/torchrun\0--nproc-per-node\x002\0train.py\0"),
        (21, 20, b"python\0train.py\0"),
        (22, 20, b"python\0train.py\0"),
        (23, 22, b"python\0worker\0"),
        (30, 10, b"vim\0"),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(command)
        (tmp_path / str(pid) / "stat").write_bytes((STAT % (pid, b"x")).replace(b"S 7 ", b"S %d " % ppid))
    (tmp_path / "99").mkdir()  # ended while we look: a folder without a line
    proc = procfs.Proc(tmp_path)
    assert [stat.pid for stat in tree.members(proc, 22)] == [20, 21, 22, 23]
    assert [stat.pid for stat in tree.members(proc, 30)] == [30]
    assert tree.members(proc, 99) == ()


# ── secrets and rights ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [
        ["--token=SESAME"],
        ["--hf_token", "SESAME"],
        ["--api-key=SESAME"],
        ["WANDB_API_KEY=SESAME"],
        ["AWS_SECRET_ACCESS_KEY=SESAME"],
        ["https://user:SESAME@host/path"],
        ["s3://SESAME@bucket"],
        ['{"password": "SESAME"}'],
        ["Authorization: Bearer SESAME"],
        ["--db-password", "SESAME"],
    ],
    ids=" ".join,
)
def test_secrets_of_a_command_line_are_hidden(arguments):
    scrubbed = " ".join(environment.scrub_command(["python", *arguments, "--steps", "5"]))
    assert "SESAME" not in scrubbed
    assert scrubbed.startswith("python")
    assert scrubbed.endswith("--steps 5")


@pytest.mark.parametrize(
    "secret", ["hf_abcdefghijklmnopqrst", "ghp_abcdefghijklmnopqrstuv", "sk-abcdefghijklmnopqrst"]
)
def test_tokens_that_say_what_they_are_are_hidden_anywhere(secret):
    assert secret not in environment.scrub(f"downloading with {secret} now")


@pytest.mark.parametrize(
    "text", ["--tokenizer=bpe", "tokens: 1024", "author: me", "python train.py --steps 5", "http://host:80/x"]
)
def test_what_only_resembles_a_secret_is_kept(text):
    assert environment.scrub(text) == text


def test_of_the_environment_only_listed_names_leave():
    data = b"RANK=1\0HF_TOKEN=SESAME\0MY_VAR=x\0MASTER_ADDR=a\xff\0no equals sign\0NCCL_DEBUG=INFO"
    assert environment.select(environment.parse(data)) == {
        "RANK": "1",
        "MASTER_ADDR": "a\udcff",
        "NCCL_DEBUG": "INFO",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"own_uid": 1000, "target_uid": 0}, "belongs to uid 0, we are uid 1000"),
        (
            {"own_uid": 0, "target_uid": 0},
            "without the capability SYS_PTRACE. in Docker: --cap-add SYS_PTRACE; in",
        ),
        ({"own_uid": 0, "target_uid": 7}, "run as uid 7; in Docker"),
        (
            {"own_uid": 0, "target_uid": 7},
            "securityContext.capabilities.add: [SYS_PTRACE], and shareProcessNamespace",
        ),
        ({"yama_scope": 1}, "Yama scope 1"),
        ({"yama_scope": 1}, "sudo sysctl kernel.yama.ptrace_scope=0"),
        ({"yama_scope": 1, "in_container": True}, "--cap-add SYS_PTRACE"),
        ({}, "not dumpable"),
    ],
)
def test_a_denial_names_the_missing_right(changes, words):
    rights = Rights(
        **{"own_uid": 1, "target_uid": 1, "may_trace_all": False, "yama_scope": None, "in_container": False}
        | changes
    )
    assert words in why_denied(rights)
