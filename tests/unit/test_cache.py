"""The cache folder: whole or not there, whoever builds, dies or races."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from nsa import cache
from tests.support.wait import wait_for


def build(folder: Path) -> None:
    (folder / "data").write_text("whole")


def test_it_is_under_the_users_cache_unless_configured(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_root() == tmp_path / ".cache" / "nsa"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache.cache_root() == tmp_path / ".cache" / "nsa"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "xdg" / "nsa"
    assert cache.cache_root("~/mine") == tmp_path / "mine"


def test_a_second_use_builds_nothing(tmp_path):
    place = cache.publish(tmp_path / "a" / "b", build)
    assert (cache.publish(place, lambda _: pytest.fail("built again")) / "data").read_text() == "whole"


def test_a_build_that_fails_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    def fails(folder: Path) -> None:
        (folder / "data").write_text("half")
        raise RuntimeError("mid-way")

    with pytest.raises(RuntimeError, match="mid-way"):
        cache.publish(tmp_path / "place", fails)
    assert [p.name for p in tmp_path.iterdir()] == [".place.lock"]
    assert (cache.publish(tmp_path / "place", build) / "data").read_text() == "whole"


def test_a_place_that_cannot_be_looked_at_is_one_line(tmp_path):
    with pytest.raises(cache.CacheError, match=r"cannot write the cache at .*: File name too long"):
        cache.publish(tmp_path / ("n" * 300) / "place", build)


def test_a_folder_that_was_not_finished_is_not_taken_for_whole(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "data").write_text("half")
    assert (cache.publish(tmp_path / "place", build) / "data").read_text() == "whole"


def _slow(place: str, started: str) -> None:
    def slow(folder: Path) -> None:
        Path(started).touch()
        time.sleep(60)
        build(folder)

    cache.publish(Path(place), slow)


def test_a_builder_that_was_killed_holds_up_nobody(tmp_path):
    started = tmp_path / "started"
    process = multiprocessing.get_context("spawn").Process(
        target=_slow, args=(str(tmp_path / "place"), str(started))
    )
    process.start()
    wait_for(started.exists, 60, "the builder starts")
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert (cache.publish(tmp_path / "place", build) / "data").read_text() == "whole"


def test_a_builder_that_hangs_is_waited_for_no_longer_than_the_deadline(tmp_path):
    started = tmp_path / "started"
    process = multiprocessing.get_context("spawn").Process(
        target=_slow, args=(str(tmp_path / "place"), str(started))
    )
    process.start()
    try:
        wait_for(started.exists, 60, "the builder starts")
        waited = []
        place = cache.publish(tmp_path / "place", build, lock_seconds=0.3, waiting=lambda: waited.append(1))
        assert (place / "data").read_text() == "whole"
        assert waited
    finally:
        process.kill()
        process.join(10)


def _race(place: str, gate: str, results: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.001)

    def counted(folder: Path) -> None:
        (Path(results) / str(os.getpid())).touch()
        build(folder)

    assert (cache.publish(Path(place), counted) / "data").read_text() == "whole"


def test_many_at_once_all_find_it_whole_and_one_builds(tmp_path):
    gate, results = tmp_path / "gate", tmp_path / "results"
    results.mkdir()
    context = multiprocessing.get_context("spawn")
    racers = [
        context.Process(target=_race, args=(str(tmp_path / "place"), str(gate), str(results)))
        for _ in range(4)
    ]
    for racer in racers:
        racer.start()
    gate.touch()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 4
    assert len(list(results.iterdir())) == 1


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # in no passwd
    for configured in (None, "~/cache"):
        with pytest.raises(cache.CacheError, match=r"user id 54321.*Set HOME, XDG_CACHE_HOME or data.cache_"):
            cache.cache_root(configured)


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        cache.CacheError, match=r"cannot write the cache at .*data.cache_dir or XDG_CACHE_HOME"
    ):
        cache.publish(tmp_path / "file" / "place", build)
