"""Checkpoints: whole or absent, and never believed unread."""

from __future__ import annotations

import json
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import needs

torch = needs.require("torch")

from nsa.checkpoint import CheckpointError, Store, read

if TYPE_CHECKING:
    from pathlib import Path

PARTS = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "ranks": [{"cursor": {"row": 3}}]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "checkpoints", keep=2)


def nothing(line: str) -> None:
    raise AssertionError(f"nothing was to be passed over: {line}")


def test_what_is_saved_comes_back(store: Store) -> None:
    saved = store.save(7, PARTS, {"identity": {"world_size": 1}})
    found = store.newest(nothing)
    assert found is not None
    assert (found.step, found.path) == (7, saved.path)
    assert found.manifest["identity"] == {"world_size": 1}
    assert torch.equal(found.part("model")["weight"], PARTS["model"]["weight"])
    assert found.part("ranks") == PARTS["ranks"]
    assert (store.root / "latest").resolve() == saved.path


def test_the_newest_are_kept(store: Store) -> None:
    for step in (1, 2, 3, 10):
        store.save(step, PARTS, {})
    assert [step for step, _ in store.steps()] == [10, 3]
    assert sorted(path.name for path in store.root.iterdir()) == ["latest", "step-00000003", "step-00000010"]


def test_the_same_step_may_be_saved_again(store: Store) -> None:
    store.save(3, PARTS, {"try": 1})
    store.save(3, PARTS, {"try": 2})
    found = store.newest(nothing)
    assert found is not None
    assert found.manifest["try"] == 2
    assert sorted(path.name for path in store.root.iterdir()) == ["latest", "step-00000003"]


def test_what_is_past_a_step_is_set_aside_and_no_longer_in_the_way(tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints", keep=1)
    for step in (1, 5):
        store.save(step, PARTS, {})
    assert store.set_aside(after=5) is None
    aside = store.set_aside(after=2)
    assert aside is not None
    assert read(aside / "step-00000005").step == 5
    assert store.newest(nothing) is None
    store.save(3, PARTS, {})
    assert sorted(path.name for path in store.root.iterdir()) == ["latest", "step-00000003"]


def test_a_folder_that_cannot_be_listed_is_one_line(store: Store) -> None:
    store.root.write_text("in the way")
    with pytest.raises(CheckpointError, match=r"checkpoints: cannot be read: Not a directory\."):
        store.steps()


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.pt", (folder / "model.pt").stat().st_size - 1)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.pt").write_bytes(data)


def lose_a_file(folder: Path) -> None:
    (folder / "ranks.pt").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_the_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 40)


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


def another_version(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": "nsa.checkpoint/9"}))


def strange_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {"model.pt": 3}}))


DAMAGES = [
    truncate,
    flip_a_bit,
    lose_a_file,
    lose_the_manifest,
    cut_the_manifest,
    empty_manifest,
    another_version,
    strange_manifest,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(store: Store, damage: Any) -> None:
    store.save(1, PARTS, {})
    damage(store.save(2, PARTS, {}).path)
    said: list[str] = []
    found = store.newest(said.append)
    assert found is not None
    assert found.step == 1
    assert len(said) == 1
    assert "step-00000002" in said[0]


def test_what_a_killed_process_left_is_never_taken_and_is_swept(store: Store) -> None:
    saved = store.save(1, PARTS, {})
    for name in (".writing-step-00000002", ".retired-step-00000000"):
        os.system(f"cp -r '{saved.path}' '{store.root / name}'")
    os.symlink("nowhere", store.root / ".latest")
    assert [step for step, _ in store.steps()] == [1]
    store.save(3, PARTS, {})
    assert sorted(path.name for path in store.root.iterdir()) == ["latest", "step-00000001", "step-00000003"]


def test_a_failed_write_leaves_nothing_and_keeps_what_was(store: Store) -> None:
    store.save(1, PARTS, {})
    (store.root / ".writing-step-00000002").write_text("in the way")
    with pytest.raises(CheckpointError, match="step 2 could not be written"):
        store.save(2, PARTS, {})
    found = store.newest(nothing)
    assert found is not None
    assert found.step == 1


def test_a_checkpoint_cannot_run_code(store: Store, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    saved = store.save(1, PARTS, {})
    torch.save({"weight": Trap()}, saved.path / "model.pt", pickle_module=pickle)
    found = read_without_verifying(store, saved.path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        found.part("model")
    assert not (tmp_path / "sprung").exists()


def read_without_verifying(store: Store, path: Path) -> Any:
    """As if whoever swapped the file had mended the manifest, too."""
    from nsa.checkpoint import Checkpoint

    return Checkpoint(path=path, step=1, manifest={})


def test_reading_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"incomplete, without manifest\.json"):
        read(tmp_path)
