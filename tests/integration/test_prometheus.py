"""Live trainings, a real Prometheus and a real Alertmanager: what is scraped, what fires, and what does not.

With the committed configuration; a minute of its rules takes two seconds here (tests/support/prometheus.py).
"""

import contextlib
import json
import math
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from harness.snapshot import GpuReading
from tests.support import prometheus, tiny_run, views
from tests.support import run as runs
from tests.support.env import clean_env
from tests.support.wait import wait_for

pytestmark = pytest.mark.needs("prometheus", "alertmanager", "once")

TRAINER = Path(__file__).parents[1] / "zoo" / "trainer.py"
DEADLINE_SECONDS = 60.0
# What a run without a GPU has no data for.
NEED_A_GPU = {"GPU memory", "GPU utilisation", "GPU power"}
# What has data only once something happened to the run; test_a_stopped_trainer_… sees to it.
NEED_A_STALL = {"Incidents by cause", "mark Stall"}
NEED_A_RESTART = {"mark Restart"}
QUERIES = {str(query): query for query in prometheus.panel_queries()}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with prometheus.stack(tmp_path_factory.mktemp("stack")) as found:
        yield found


@pytest.fixture
def announce(stack, tmp_path):
    """Start runs that the stack scrapes; all that is left of them is killed."""
    with contextlib.ExitStack() as ending:

        def begin(*command, options=(), name="run"):
            options = ("--metrics-port", "0", "--announce", str(stack.targets), *options)
            env = clean_env(tmp_path, OMP_NUM_THREADS="1", HARNESS_METRICS_PORT="0")
            run = runs.start(tmp_path / name, *command, options=options, env=env)
            ending.callback(run.clean_up)
            run.pid()
            return run, run.record()["run_id"]

        yield begin


def trainer(*arguments):
    return (sys.executable, str(TRAINER), "--quiet", *arguments)


def scraped(stack, run_id, expression="trainer_step"):
    """The newest value of a series of the run."""
    found = stack.query(f'{expression}{{run_id="{run_id}"}}')
    return float(found[0]["value"][1]) if found else None


def wait_scraped(stack, run_id, least=20, metric="trainer_step"):
    wait_for(
        lambda: (value := scraped(stack, run_id, metric)) is not None and value >= least,
        DEADLINE_SECONDS,
        f"{metric} to be {least}",
        0.2,
    )


def wait_firing(stack, run_id, name):
    wait_for(lambda: name in stack.firing(run_id), DEADLINE_SECONDS, f"{name} to fire", 0.2)


def wait_notified(stack, run_id, *expected, status="firing"):
    wait_for(
        lambda: stack.notified(run_id, status) >= set(expected),
        DEADLINE_SECONDS,
        f"{expected} to arrive",
        0.2,
    )


def raw(stack, metric, run_id, **labels):
    """Every sample that was scraped: time to value."""
    chosen = ",".join(f'{name}="{value}"' for name, value in {"run_id": run_id, **labels}.items())
    (series,) = stack.query(f"{metric}{{{chosen}}}[10m]")
    return {at: float(value) for at, value in series["values"]}


# ---- what is scraped


@pytest.fixture(scope="module")
def trained(stack, tmp_path_factory):
    """A small run of nsa, scraped to its end: its directory, its id, when it began and ended."""
    folder = tmp_path_factory.mktemp("trained")
    config = tiny_run.config(folder, train={"steps": 100_000}, eval={"every": 20}, checkpoint={"every": 15})
    options = ("--metrics-port", "0", "--announce", str(stack.targets), "--stall-timeout", "600")
    began = time.time()
    run = runs.start(
        folder / "run",
        *tiny_run.command("train", config, "--out", folder / "run"),
        options=options,
        env=clean_env(folder, OMP_NUM_THREADS="1"),
    )
    try:
        pid = run.pid()
        run_id = run.record()["run_id"]

        def ready():
            return (
                (scraped(stack, run_id) or 0) > 60
                and scraped(stack, run_id, "trainer_checkpoint_interval_seconds") is not None
                and len(raw(stack, "trainer_loss", run_id)) > 8
            )

        wait_for(ready, 120, "a training worth looking at", 0.2)
        os.kill(pid, signal.SIGTERM)  # nsa saves, and says that it was stopped
        run.end()
        # Its very last values were scraped: that is what the harness waited for.
        wait_for(
            lambda: not stack.query(f'up{{run_id="{run_id}"}}'), DEADLINE_SECONDS, "the target to go", 0.2
        )
        yield run.directory, run_id, began, time.time()
    finally:
        run.clean_up()


@pytest.mark.needs("torch")
def test_a_live_training_is_shown_as_it_was(stack, trained):
    """One test, for its training takes longer than all that is asked of it."""
    _every_query_of_every_panel_has_data_over_its_life(stack, trained)
    _what_was_scraped_is_what_metrics_jsonl_holds(stack, trained)
    _panels_show_what_metrics_jsonl_holds(stack, trained)


def _every_query_of_every_panel_has_data_over_its_life(stack, trained):
    _, run_id, began, ended = trained
    empty = set()
    for query in QUERIES.values():
        expression = query.with_variables(run_id=run_id, rate_interval="5s", time_range="10m")
        # Instant queries too: some moment of the run's life has a value.
        series = stack.query_range(expression, began, ended)
        values = [float(value) for each in series for _, value in each["values"]]
        if not any(map(math.isfinite, values)):  # NaN is a rate of nothing: a gap in a curve
            empty.add(query.panel)
    has_gpu = os.path.exists("/dev/nvidiactl")
    assert empty == NEED_A_STALL | NEED_A_RESTART | (set() if has_gpu else NEED_A_GPU)


def _what_was_scraped_is_what_metrics_jsonl_holds(stack, trained):
    directory, run_id, _, _ = trained
    rows = {row["step"]: row for row in tiny_run.rows(directory)}
    steps = raw(stack, "trainer_step", run_id)
    assert len(set(steps.values())) > 5
    for metric, key in (("trainer_loss", "loss"), ("trainer_grad_norm", "grad_norm")):
        values = raw(stack, metric, run_id)
        assert set(values) <= set(steps)
        for at, value in values.items():
            assert value == rows[steps[at]][key], (metric, at)
    used = raw(stack, "trainer_learning_rate", run_id, group="0")
    asked = raw(stack, "trainer_scheduled_learning_rate", run_id, group="0")
    assert set(used) == set(asked)
    for at, value in used.items():
        recorded = rows[steps[at]]["lr"]
        assert value == (recorded[0] if isinstance(recorded, list) else recorded)
        assert asked[at] == pytest.approx(value, rel=1e-6)

    last = max(steps)
    assert steps[last] == max(rows)

    def total(metric, **labels):
        return raw(stack, metric, run_id, **labels)[last]

    assert total("trainer_tokens_total") == sum(row["tokens"] for row in rows.values())
    # The first step of all has no step before it to count from.
    times = [row["step_seconds"] for row in rows.values() if row["step_seconds"] is not None]
    assert total("trainer_step_duration_seconds_count") == len(times)
    assert total("trainer_step_duration_seconds_sum") == pytest.approx(sum(times))
    assert total("trainer_nonfinite_total") == 0
    for phase in ("data", "forward", "backward", "optimizer"):
        assert total("trainer_phase_seconds_total", phase=phase) > 0


def _panels_show_what_metrics_jsonl_holds(stack, trained):
    """The panel's own query, at each second of the run's life, against the rows."""
    directory, run_id, began, ended = trained
    rows = {row["step"]: row for row in tiny_run.rows(directory)}
    losses = {row["loss"] for row in rows.values()}

    def shown(name):
        (series,) = stack.query_range(
            QUERIES[name].with_variables(run_id=run_id, rate_interval="5s", time_range="10m"), began, ended
        )
        return [float(value) for _, value in series["values"]]

    assert set(shown("Loss A")) <= losses
    assert set(shown("Step A")) <= set(rows)
    assert set(shown("Steps behind the foremost rank A")) == {0.0}
    # Rates: never more than the run ever had, and in its range.
    timed = [row for row in rows.values() if row["step_seconds"] is not None]
    speeds = [row["tokens"] / row["step_seconds"] for row in timed]
    assert 0 < max(shown("Tokens per second A")) <= max(speeds)
    times = [row["step_seconds"] for row in timed]
    assert min(times) <= min(shown("Step time by rank A")) <= max(shown("Step time by rank A")) <= max(times)
    assert shown("Status A")[-1] == 3.0, "finished"
    assert 2.0 in shown("Status A"), "training"


def test_gpus_are_shown_and_several_runs_are_overlaid(stack):
    """Two runs on a GPU each, as the harness serves them."""
    from harness.metrics.collector import TrainerCollector
    from harness.metrics.server import Server

    servers = []
    try:
        for run_id in ("gpu-a", "gpu-b"):
            state = views.with_beat(views.state(), last=views.row(127, step=128, memory=(1, 2, 3)))
            gpu = GpuReading(
                gpu="0",
                used_bytes=4,
                total_bytes=8,
                utilization_ratio=0.5,
                power_watts=300.0,
                pids=(state.heartbeat.pid,),
            )
            view = views.view(state, run_id=run_id, gpus=(gpu,))
            servers.append(Server(TrainerCollector(lambda view=view: view), lambda view=view: view, port=0))
            servers[-1].start()
            target = [{"targets": [f"127.0.0.1:{servers[-1].port}"], "labels": {"run_id": run_id}}]
            (stack.targets / f"{run_id}.json").write_text(json.dumps(target))
            wait_scraped(stack, run_id)
        for query in QUERIES.values():
            if query.panel in NEED_A_GPU | {"Loss"}:
                series = stack.query(query.with_variables(run_id="gpu-a|gpu-b"))
                assert {each["metric"]["run_id"] for each in series} == {"gpu-a", "gpu-b"}, query
    finally:
        for server in servers:
            server.close()
        for file in stack.targets.glob("gpu-*.json"):
            file.unlink()


# ---- what fires


def test_a_stopped_trainer_is_an_alert_that_somebody_gets_until_it_goes_on(stack, announce):
    run, run_id = announce(*trainer(), options=("--stall-timeout", "2"))
    wait_scraped(stack, run_id)
    os.kill(run.pid(), signal.SIGSTOP)
    wait_firing(stack, run_id, "TrainerStalled")
    wait_notified(stack, run_id, ("page", "TrainerStalled"))
    status = QUERIES["Status A"].with_variables(run_id=run_id, rate_interval="5s", time_range="10m")
    assert [each["value"][1] for each in stack.query(status)] == ["1"]

    wait_for(lambda: scraped(stack, run_id, "trainer_stalls_total"), DEADLINE_SECONDS, "its incident", 0.2)
    for query in QUERIES.values():
        if query.panel in NEED_A_STALL:
            (series,) = stack.query(query.with_variables(run_id=run_id))
            assert series["metric"].get("cause", "stopped") == "stopped"

    os.kill(run.pid(), signal.SIGCONT)
    wait_notified(stack, run_id, ("page", "TrainerStalled"), status="resolved")
    assert stack.fired(run_id) == {"TrainerStalled"}


def test_a_trainer_that_holds_the_gil_is_an_alert_too(stack, announce):
    """Its own threads could not answer a scrape: the harness does, from outside."""
    stuck = [
        announce(*trainer("--fault", fault, "--at", "60"), options=("--stall-timeout", "2"), name=fault)
        for fault in ("gil", "backtrack")
    ]
    for run, run_id in stuck:
        wait_notified(stack, run_id, ("page", "TrainerStalled"))
        assert scraped(stack, run_id) == 59
        assert scraped(stack, run_id, "trainer_up") == 1
        assert run.process.poll() is None


def test_a_killed_trainer_is_an_alert(stack, announce):
    run, run_id = announce(*trainer())
    wait_scraped(stack, run_id)
    os.kill(run.pid(), signal.SIGKILL)
    status, said = run.end()
    assert status == 137, said
    wait_notified(stack, run_id, ("page", "TrainerVanished"))
    # Prometheus takes up to ten seconds to forget a target that was withdrawn; to rules thirty times as
    # impatient as ours, that is TrainerDown.
    assert stack.fired(run_id) - {"TrainerDown"} == {"TrainerVanished"}


def test_one_that_dies_before_it_emits_anything_is_an_alert(stack, announce):
    run, run_id = announce(sys.executable, "-c", "import no_such_module")
    wait_notified(stack, run_id, ("page", "TrainerVanished"))
    assert run.end()[0] == 1


def test_a_harness_that_is_gone_is_an_alert_and_what_follows_from_it_is_none(stack, announce):
    run, run_id = announce(*trainer())
    wait_scraped(stack, run_id)
    run.process.kill()
    wait_notified(stack, run_id, ("page", "TrainerDown"))
    wait_firing(stack, run_id, "TrainerVanished")  # nobody says that it lives
    assert stack.notified(run_id) == {("page", "TrainerDown")}


def test_restarts_in_a_row_are_a_ticket_and_marked(stack, announce):
    run, run_id = announce(*trainer(), options=("--on-stall", "restart"))
    for attempt in (1, 2):
        wait_scraped(stack, run_id, attempt, "trainer_attempt")
        os.kill(run.attempt()["pid"], signal.SIGKILL)
    wait_notified(stack, run_id, ("ticket", "TrainerCrashLooping"))
    (mark,) = [query for query in QUERIES.values() if query.panel in NEED_A_RESTART]
    assert stack.query(mark.with_variables(run_id=run_id))
    assert stack.fired(run_id) == {"TrainerCrashLooping"}
    assert run.process.poll() is None


def test_a_run_that_ends_well_is_no_alert(stack, announce):
    run, run_id = announce(*trainer("--steps", "200", "--beside", "eval", "--beside-seconds", "1"))
    wait_scraped(stack, run_id)
    # A target's run_id is the run_id of its series: one label, not two.
    (up,) = stack.query(f'up{{run_id="{run_id}"}}')
    (step,) = stack.query(f'trainer_step{{run_id="{run_id}"}}')
    assert set(up["metric"]) == {"__name__", "instance", "job", "run_id"}
    assert set(step["metric"]) == {"__name__", "instance", "job", "rank", "run_id"}
    # Where a runbook says that the run's directory is to be found.
    (known,) = [
        each["discoveredLabels"]
        for each in stack.ask("targets")["activeTargets"]
        if each["labels"].get("run_id") == run_id
    ]
    assert known["__meta_harness_run_dir"] == str(run.directory)
    (file,) = stack.targets.glob(f"{run_id}.*.json")
    (target,) = json.loads(file.read_text())[0]["targets"]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=20) as answer:
        assert prometheus.promtool("check", "metrics", text=answer.read().decode()) == ""
    status, said = run.end()
    assert status == 0, said
    finished = stack.query(f'last_over_time(trainer_finished{{run_id="{run_id}"}}[1m])')
    assert [each["value"][1] for each in finished] == ["1"]
    # Five minutes of the committed rules: longer than any page is patient.
    later = time.time() + 300 * prometheus.FACTOR
    wait_for(lambda: stack.evaluated_at() > later, DEADLINE_SECONDS, "rules to be evaluated for a while", 0.5)
    assert stack.fired(run_id) == set()
    assert stack.notified(run_id) == set()
