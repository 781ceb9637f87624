"""The real `datasets` and `huggingface_hub` code against a local server that speaks the hub's endpoints.

Each case opens a stream as the trainer does, in a process of its own, with HF_ENDPOINT set. What comes
through must be, to the bit, what the undisturbed server gave; what does not must end in bounded time.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from tests.support import needs, tiny_run
from tests.support.env import REPOSITORY, clean_env

needs.require("datasets")
needs.require("pyarrow")
needs.require("pydantic")

import pyarrow.parquet as pq

from tests.support.hub import COMMIT, SUBSET, Fault, Hub, parquet, texts
from tests.support.hub import REPOSITORY as DATASET

# The third answer of the "CDN" is the shard's text; the first two are its footer.
TEXT = {"path": "^/cdn/", "after": 2}
ROWS = 300


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    shards = {
        f"sample/{n}.parquet": parquet(list(texts(n, ROWS, 300)), folder, row_group_size=100)
        for n in range(2)
    }
    other = parquet(["Never this text."] * 50, folder, row_group_size=50)
    return {**shards, "other/0.parquet": other, "README.md": b"---\n---\n"}


class Child:
    """A program that opens streams with HF_ENDPOINT set: tests/support/stream_child.py."""

    def __init__(self, endpoint, home):
        self._log = home / "stderr"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.stream_child"],
                cwd=REPOSITORY,
                # `datasets` would import torch, seconds each time, for tensors that nobody asks for.
                env=clean_env(home=home, HF_ENDPOINT=endpoint, USE_TORCH="0"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, *, batches=4, cursor=None, source="fineweb-edu", tokenizer="byte", **data):
        config = {
            "name": "t",
            "model": {"dim": 8, "layers": 1, "heads": 1, "kv_groups": 1},
            "tokenizer": {"kind": tokenizer},
            "data": {
                "source": source,
                "sequence_length": 2048,
                "stall_timeout_seconds": 20.0,
                "retries": 3,
                **data,
            },
            "train": {"steps": 1, "micro_batch": 16},
            "schedule": {"peak": 0.1, "warmup_steps": 0},
        }
        if source == "fineweb-edu":
            config["data"] = {"dataset": DATASET, "subset": SUBSET, **config["data"]}
        self._process.stdin.write(json.dumps({"config": config, "batches": batches, "cursor": cursor}) + "\n")
        self._process.stdin.flush()
        result = json.loads(self._process.stdout.readline())
        # A thread left in pyarrow would abort the interpreter's end, and take the exit status with it.
        assert result["ended"] == 0, self._log.read_text()
        assert "Traceback" not in self._log.read_text()
        return result

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


@pytest.fixture(scope="module")
def server(files):
    with Hub(files) as hub:
        yield hub


@pytest.fixture
def hub(server, files):
    server.restart(files)
    return server


@pytest.fixture(scope="module")
def child(server, tmp_path_factory):
    child = Child(server.endpoint, tmp_path_factory.mktemp("home"))
    yield child
    child.close()


@pytest.fixture(scope="module")
def undisturbed(server, files, child):
    server.restart(files)
    result = child.run()
    assert "error" not in result
    return result


@pytest.fixture(scope="module")
def local(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    for name, data in files.items():
        if name.startswith("sample/"):
            (folder / name.split("/")[1]).write_bytes(data)
    return folder


def test_the_subsets_files_are_found_by_the_card_read_by_ranges_through_redirects_at_one_commit(hub, child):
    result = child.run()
    assert "error" not in result
    assert hub.asked("^/cdn/sample/") >= 3
    assert hub.asked("^/cdn/other/") == 0
    assert all(asked is not None for _, path, asked in hub.requests if path.startswith("/cdn/"))
    assert all(COMMIT in path for _, path, _ in hub.requests if "/resolve/" in path)
    assert result["downloaded_bytes"] > 400_000
    assert any("documents" in line for line in result["seen"])


def test_what_comes_over_the_hub_is_what_the_same_files_give_locally(undisturbed, local, child):
    # Shards are ordered by their names, which differ by the folder here: one shard decides nothing.
    seen = {child.run(source="files", paths=[str(local / f"{n}.parquet")])["digest"] for n in range(2)}
    assert undisturbed["digest"] in seen


@pytest.mark.parametrize(
    "fault",
    [
        Fault("^/api/datasets", "status", status=503),
        Fault("^/api/datasets", "status", status=429, headers={"Retry-After": "0"}),
        Fault("/resolve/", "status", status=429, headers={"Retry-After": "0"}, after=1),
        Fault("^/cdn/", "status", status=503, after=1),
        Fault(action="cut", **TEXT),
    ],
    ids=["503 at the start", "429 at the start", "429 at a file", "503 at the bytes", "cut in mid-shard"],
)
def test_a_passing_fault_changes_nothing_in_the_data(fault, undisturbed, hub, child):
    hub.faults = [fault]
    result = child.run()
    assert fault.seen > fault.after, "the fault was met"
    assert result.get("digest") == undisturbed["digest"], result
    assert result["cursor"] == undisturbed["cursor"]


def test_a_stall_in_mid_shard_is_broken_off_and_the_range_asked_for_again(undisturbed, hub, child):
    hub.faults = [Fault(action="stall", **TEXT)]
    result = child.run(stall_timeout_seconds=6.0)
    assert result.get("digest") == undisturbed["digest"], result
    assert result["waited_seconds"] >= 2.0, "the wait for it is accounted for"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("^/cdn/", "silence", after=2, times=99), "no data for 3 s"),
        (Fault("^/cdn/", "status", status=503, times=99), "no data for 3 s (last: 503 Service Unavailable)"),
        (Fault("^/api/datasets", "silence", times=99), "no data for 3 s"),
        (
            Fault("^/cdn/", "status", status=429, headers={"Retry-After": "3600"}),
            "answers 429 Too Many Requests and asks to wait 3600 s, more than data.stall_timeout_seconds (3)",
        ),
        (Fault("^/cdn/", "whole"), "ignores ranges and sends whole files"),
        (
            Fault("^/api/datasets", "status", status=404, times=99),
            "The hub has no such repository, or not for you",
        ),
    ],
    ids=[
        "silence in mid-shard",
        "503 for ever",
        "silence at the start",
        "429 for an hour",
        "no ranges",
        "404",
    ],
)
def test_a_lasting_fault_ends_soon_naming_the_source_the_time_and_what_to_do(fault, said, hub, child):
    hub.faults = [fault]
    result = child.run(stall_timeout_seconds=3.0)
    assert result["error"] == "DataSourceError"
    assert result["exit_status"] == 4
    assert f"{DATASET} ({SUBSET}) on the hub" in result["message"]
    assert said in result["message"]
    assert "\n" not in result["message"]
    if said.startswith("no data"):
        for word in ("nsa data fetch", "data.source to files", "local-docs"):
            assert word in result["message"]
    # Ten times the limit: a bound, not a measurement.
    assert result["seconds"] < 30


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_without_a_network_it_ends_soon_and_says_what_to_do(endpoint, tmp_path):
    child = Child(endpoint, tmp_path)
    result = child.run()
    assert result["error"] == "DataSourceError"
    assert f"{DATASET} ({SUBSET}) on the hub is out of reach: ConnectError" in result["message"]
    assert "nsa data fetch" in result["message"]
    assert result["seconds"] < 60
    if needs.missing("transformers") is None and "invalid" in endpoint:
        result = child.run(tokenizer="gpt2")
        assert result["error"] == "DataSourceError"
        assert "openai-community/gpt2" in result["message"]
        assert "set tokenizer.path" in result["message"]
        assert result["seconds"] < 60
    child.close()


def test_a_resumed_run_reads_the_commit_it_began_with_though_the_dataset_moved_on(undisturbed, hub, child):
    first = child.run(batches=2)
    hub.commit = "f" * 40
    hub.requests.clear()
    rest = child.run(batches=2, cursor=first["cursor"])
    assert rest["cursor"] == undisturbed["cursor"]
    assert all(COMMIT in path for _, path, _ in hub.requests if "/resolve/" in path)


@pytest.mark.needs("torch")
def test_a_resumed_training_holds_out_the_documents_of_the_commit_it_began_with(hub, tmp_path):
    source = {"source": "fineweb-edu", "paths": [], "dataset": DATASET, "subset": SUBSET}
    config = tiny_run.config(tmp_path, data=source, train={"steps": 2}, schedule={"warmup_steps": 0})
    words = ("train", config, "--out", tmp_path / "out")
    env = clean_env(home=tmp_path, HF_ENDPOINT=hub.endpoint)
    first = tiny_run.run(*words, env=env)
    assert first.returncode == 0, first
    hub.commit = "f" * 40
    hub.requests.clear()
    again = tiny_run.run(*words, env=env)
    assert again.returncode == 0, again
    assert "nothing left to train" in again.stdout
    asked = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert asked
    assert all(COMMIT in path for path in asked), asked


def test_a_resume_in_the_middle_of_a_shard_does_not_read_what_stands_before_it(files, hub, child):
    first = child.run(batches=11)
    place = first["cursor"]["place"]
    assert place["shard"] == 0
    assert 200 <= place["row"] < ROWS, "in the last of three row groups"
    name = next(path for _, path, _ in hub.requests if path.startswith("/cdn/")).removeprefix("/cdn/")
    begins = pq.read_metadata(io.BytesIO(files[name])).row_group(2).column(0).data_page_offset
    assert begins > 300_000
    hub.requests.clear()
    rest = child.run(batches=2, cursor=first["cursor"])
    asked = [int(wanted[6:].split("-")[0]) for _, path, wanted in hub.requests if path == f"/cdn/{name}"]
    assert min(asked) >= begins, "the footer and the last row group"
    assert rest["cursor"] == child.run(batches=13)["cursor"]


def test_files_that_changed_under_the_commit_are_refused(hub, files, child):
    first = child.run(batches=1)
    hub.files = {**files, "sample/1.parquet": files["other/0.parquet"]}
    second = child.run(batches=1, cursor=first["cursor"])
    assert second["error"] == "CursorMismatchError"
    assert "data was" in second["message"]


def test_a_subset_that_is_not_there_is_a_configuration_error_naming_those_that_are(hub, child):
    result = child.run(subset="missing")
    assert result["error"] == "ConfigError"
    assert "data.subset: 'missing' is no subset of the dataset: it has other, sample" in result["message"]


@pytest.mark.needs("transformers")
def test_the_gpt2_tokenizer_comes_from_the_hub_once_and_from_the_cache_after(hub, local, tmp_path):
    from nsa import tokenizer as tokenizers

    text = "the model reads what a person wrote " * 50
    made = tokenizers.trained(lambda: [text], vocab_size=270, source_fingerprint="x", cache_dir=str(tmp_path))
    (folder,) = (tmp_path / "tokenizers").glob("bpe-*")
    hub.model_files = {name: (folder / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    hub.model_files["config.json"] = b'{"model_type": "gpt2"}'
    child = Child(hub.endpoint, tmp_path)
    asked = {"source": "files", "paths": [str(local / "0.parquet")], "tokenizer": "gpt2", "batches": 1}
    first = child.run(**asked)
    assert first["cursor"]["identity"]["tokenizer"] == made.fingerprint, first
    hub.model_files = {}
    hub.requests.clear()
    assert child.run(**asked)["digest"] == first["digest"]
    assert hub.asked("gpt2") == 0
    child.close()
