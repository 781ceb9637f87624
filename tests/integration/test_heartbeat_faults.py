"""What goes wrong around the record ends neither the trainer nor the reader, and is said in one line."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from harness import wire
from harness.errors import RecordError
from harness.watch import heartbeat
from tests.support.emitting import emitting

# A trainer that tells when it stands, and goes on when told.
_TRAINER = """
emit.open()
emit.step(1)
say("ready", emit.enabled)
wait()
for i in range(2, 2000):
    with emit.stage("eval"):
        emit.phase("data")
        emit.progress(detail="x")
        emit.step(i, loss=1.0)
emit.event("x", text="y" * 5000)
emit.close()
say("alive")
"""


def on_small_disk(size, *, memory=True):
    """Run a program in a mount namespace of its own, with a tmpfs of `size` at RUN and a /dev/shm or none."""
    mounts = f'mount -t tmpfs -o size={size},nr_inodes=64 none "$0"'
    mounts += f"; mount -t tmpfs -o {'rw,size=1m' if memory else 'ro'} none /dev/shm"
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{mounts}; exec "$@"')


_FILL = """
import os
def fill():
    # To the last block, as a full disk is.
    with open(os.environ["HARNESS_RUN_DIR"] + "/filler", "wb", buffering=0) as filler:
        for size in (65536, 4096):
            try:
                while True: filler.write(bytes(size))
            except OSError: pass
def look():
    from harness.watch import heartbeat
    path = os.environ["HARNESS_RUN_DIR"] + "/ranks/00000.beat"
    seen = heartbeat.read(path)
    link = os.readlink(path) if os.path.islink(path) else ""
    say(seen.step, seen.closed_status, link.startswith("/dev/shm/harness-"))
"""


@pytest.mark.needs("tmpfs")
def test_a_disk_full_from_the_start_puts_the_record_in_memory(tmp_path):
    source = _FILL + "os.mkdir(os.environ['HARNESS_RUN_DIR'] + '/ranks'); fill()" + _TRAINER + "look()"
    with emitting(source, tmp_path, prefix=(*on_small_disk("1m"), str(tmp_path))) as trainer:
        trainer.hear("ready True")
        trainer.tell()
        assert trainer.end() == (0, "alive\n1999 finished True\n", "")


@pytest.mark.needs("tmpfs")
def test_a_disk_that_fills_later_changes_nothing(tmp_path):
    source = _FILL + _TRAINER.replace("wait()", "wait(); fill()") + "look()"
    with emitting(source, tmp_path, prefix=(*on_small_disk("1m"), str(tmp_path))) as trainer:
        trainer.hear("ready True")
        trainer.tell()
        assert trainer.end() == (0, "alive\n1999 finished False\n", "")


@pytest.mark.needs("tmpfs")
def test_no_room_anywhere_ends_emitting_with_one_line(tmp_path):
    prefix = (*on_small_disk("128k", memory=False), str(tmp_path))
    with emitting(_TRAINER, tmp_path, prefix=prefix) as trainer:
        trainer.hear("ready False")
        trainer.tell()
        status, out, err = trainer.end()
    assert (status, out) == (0, "alive\n")
    assert err.count("\n") == 1
    assert "No space left" in err
    assert "/dev/shm" in err


@pytest.mark.parametrize("kind", ["nfs4", "btrfs", "fuse.gcsfuse"])
def test_where_a_mapping_may_be_lost_the_record_stands_in_memory(tmp_path, kind):
    device = os.stat(tmp_path).st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"27 1 {os.major(device)}:{os.minor(device)} / / rw,relatime shared:1 - {kind} /dev/x rw\n"
    )
    memory = tmp_path / "shm"
    memory.mkdir()
    patch = f"from harness import place; place.MOUNTS, place.MEMORY = {str(mounts)!r}, {str(memory)!r}\n"
    path = tmp_path / "ranks" / "00000.beat"
    for attempt in (1, 2):
        with emitting(
            patch + _TRAINER, tmp_path, HARNESS_RUN_ID="../r 1", HARNESS_ATTEMPT=str(attempt)
        ) as trainer:
            trainer.hear("ready True")
            trainer.tell()
            assert trainer.end() == (0, "alive\n", "")
        folder = memory / f"harness-{os.getuid()}"
        assert path.is_symlink()
        assert path.resolve().parent == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.resolve().stat().st_mode) == 0o600
        assert len(list(folder.iterdir())) == 1  # the last attempt's is gone
        assert heartbeat.read(path).attempt == attempt


def test_a_folder_in_memory_that_is_not_ours_alone_is_not_used(tmp_path):
    memory = tmp_path / "shm"
    folder = memory / f"harness-{os.getuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    patch = f"from harness import place; place.MOUNTS, place.MEMORY = '/nonexistent', {str(memory)!r}\n"
    with emitting(patch + "emit.open(); say(emit.enabled)", tmp_path) as trainer:
        status, out, err = trainer.end()
    assert (status, out) == (0, "False\n")
    assert "not a private folder" in err
    assert list(folder.iterdir()) == []


def _vanish(path):
    path.unlink()
    path.with_suffix(".traceback").unlink()
    path.parent.rmdir()


def _cut(path):
    os.truncate(path, 0)


def _cut_the_end(path):
    os.truncate(path, wire.SIZE - 4096)


@pytest.mark.parametrize(
    ("damage", "says"),
    [(_vanish, ""), (_cut, "truncated"), (_cut_the_end, "truncated")],
    ids=["gone", "cut", "end cut"],
)
def test_a_record_damaged_under_its_trainer_does_not_end_it(tmp_path, damage, says):
    path = tmp_path / "ranks" / "00000.beat"
    with emitting(_TRAINER, tmp_path) as trainer:
        trainer.hear("ready True")
        with heartbeat.Reader(path) as reader:
            assert reader.read().step == 1
            damage(path)
            if says:
                with pytest.raises(RecordError, match=r"truncated|empty"):
                    heartbeat.read(path)
            if damage is _cut:
                with pytest.raises(RecordError, match="truncated"):
                    reader.read()
            assert reader.replaced() == (not says)
        trainer.tell()
        status, out, err = trainer.end()
    assert (status, out) == (0, "alive\n")
    assert err.count("\n") == bool(says)
    assert says in err


def _file(content):
    return lambda path: path.write_bytes(content)


def _loop(path):
    path.symlink_to(path.name)


def _dangling(path):
    path.symlink_to("/nonexistent/record")


def _socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's name has but 108 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


_WHOLE_HEADER = wire.PROLOGUE.pack(wire.MAGIC, wire.VERSION, wire.SIZE)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (_file(b""), "empty"),
        (_file(b"HARN"), "truncated to 4 bytes"),
        (_file(b"\x7fELF" * 9999), "begins with"),
        (_file(wire.PROLOGUE.pack(wire.MAGIC, 7, wire.SIZE) + bytes(wire.SIZE)), "version 7"),
        (_file(wire.PROLOGUE.pack(wire.MAGIC, wire.VERSION, 99) + bytes(wire.SIZE)), "wrong size"),
        (_file(_WHOLE_HEADER), "truncated"),
        (_file(_WHOLE_HEADER + bytes(wire.SIZE)), "header is damaged"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (_socket, "not a regular file"),
        (_loop, "symbolic links"),
        (_dangling, "No such file"),
        (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
    ],
)
def test_what_is_no_record_is_refused_with_one_clear_line(tmp_path, make, says):
    path = tmp_path / "00000.beat"
    make(path)
    with pytest.raises(RecordError) as refused:
        heartbeat.read(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.needs("root")
def test_a_link_to_another_users_file_is_refused(tmp_path):
    path, other = tmp_path / "00000.beat", tmp_path / "secret"
    other.write_bytes(bytes(wire.SIZE))
    os.chown(other, 12345, 12345)
    path.symlink_to(other)
    with pytest.raises(RecordError, match="another user"):
        heartbeat.read(path)


@pytest.mark.parametrize(
    ("start", "end"),
    [(wire.COUNTERS_AT, wire.HEAD_BYTES), (wire.STEPS.offset, wire.SIZE)],
    ids=["head", "rows"],
)
def test_a_record_overwritten_with_rubbish_is_damaged(tmp_path, start, end):
    with emitting("emit.open()\nfor i in range(1500): emit.step(i)", tmp_path) as trainer:
        trainer.end()
    path = tmp_path / "ranks" / "00000.beat"
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + os.urandom(end - start) + whole[end:])
    with heartbeat.Reader(path) as reader:
        for look in (reader.read, reader.drain):
            with pytest.raises(RecordError, match="damaged"):
                look()


@pytest.mark.parametrize("obstacle", ["file", "folder", "unwritable"])
def test_a_run_directory_in_the_way_ends_emitting_with_one_line(tmp_path, obstacle):
    ranks = tmp_path / "ranks"
    if obstacle == "file":
        ranks.write_text("")
    elif obstacle == "folder":
        (ranks / "00000.beat" / "x").mkdir(parents=True)
    else:
        ranks.symlink_to("/proc/1")
    with emitting(_TRAINER, tmp_path) as trainer:
        trainer.hear("ready False")
        trainer.tell()
        status, out, err = trainer.end()
    assert (status, out) == (0, "alive\n")
    assert err.count("\n") == 1


def test_a_closed_stderr_is_no_reason_to_fail(tmp_path):
    source = "import os; os.close(2); emit.open(rank=-5); say(emit.enabled)"
    with emitting(source, tmp_path) as trainer:
        assert trainer.end() == (0, "False\n", "")
