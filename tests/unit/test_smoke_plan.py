"""Smoke plans: what is read, and that every mistake is told with file, line, key and remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.smoke import expect, expect_steps, plan
from tests.support.env import REPOSITORY

ONE = "stages:\n  - name: a\n    command: 'true'\n"


def load(tmp_path: Path, text: str, **settings: str | tuple[str, ...]) -> plan.Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return plan.load(path, settings)


def complaint(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as found:
        load(tmp_path, text)
    said = str(found.value)
    assert found.value.exit_status == 2
    assert "\n" not in said
    return said.removeprefix(str(tmp_path / "plan.yaml"))


def stage(*lines: str) -> str:
    return ONE + "".join(f"    {line}\n" for line in lines)


def expected(*lines: str) -> str:
    return stage("expect:", *(f"  {line}" for line in lines))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": is empty. Start from"),
        ("- a\n", ":1: a list where keys with values belong"),
        ("name: x\n", ": has no stages"),
        ("stages: []\n", ": has no stages"),
        ("stages:\n  a: b\n", ":1: stages: keys where a list belongs"),
        ("stagse: []\n", ":1: stagse: unknown key. Did you mean stages?"),
        ("name: a\nname: b\n", ":2: name: is given twice, at lines 1 and 2"),
        ("stages: [\n", ":2: is not valid YAML"),
        ("stages: &x\n  - *x\n", ": is nested too deeply"),
        ("stages:\n  - command: 'true'\n", ":2: stages[0]: has no name"),
        ("stages:\n  - name: a\n", ":2: stages[0]: has no command"),
        ("stages:\n  - name: A B\n    command: x\n", ":2: stages[0].name: 'A B' cannot name a stage"),
        (stage("bugdet: 3"), ":4: stages[0].bugdet: unknown key. Did you mean budget?"),
        (stage("budget: fast"), ":4: a.budget: 'fast' is no time. Write seconds"),
        (stage("budget: 0"), ":4: a.budget: '0' is no time"),
        (stage("budget: [1]"), ":4: a.budget: a list where one value belongs"),
        (stage("stall: train=soon"), ":4: a.stall: 'train=soon': 'soon' is no number of seconds"),
        (stage("needs: b"), ":2: a.needs: no stage 'b'. Known here: a"),
        (stage("needs: a"), ":2: a.needs: a circle: a → a"),
        (
            stage("needs: b")
            + "  - {name: b, command: 'true', needs: c}\n  - {name: c, command: x, needs: a}\n",
            ":2: a.needs: a circle: a → b → c → a",
        ),
        (stage("needs: b") + "  - {name: b, command: 'true'}\n", ":2: a.needs: b stands after it. Move b up"),
        (ONE + "  - {name: a, command: 'true'}\n", ":4: a: is given twice, the first time at line 2"),
        ("stages:\n  - name: a\n    command: 'say \"x'\n", ":3: a.command: cannot be split into words"),
        ("stages:\n  - name: a\n    command: ''\n", ":3: a.command: is empty"),
        ("stages:\n  - name: a\n    command: {b: c}\n", ":3: a.command: keys where a command belongs"),
        ("stages:\n  - name: a\n    command: run {x}\n", ":3: a.command: {x} stands for nothing"),
        ("values: {x: 1}\n" + ONE, ":1: values.x: no stage uses it"),
        ("values: {X-y: 1}\n" + ONE, ":1: values.X-y: cannot name a value"),
        ("budgets: {b: 3}\n" + ONE, ":1: budgets.b: no such stage. Known here: a"),
        (stage("for_each: x"), ":4: a.for_each: 'x' is no value of this plan"),
        ("values: {x: []}\n" + stage("for_each: x"), ":5: a.for_each: x is an empty list"),
        (expected("steps: 3"), ":5: a.expect.steps: unknown key. Did you mean step?"),
        (expected("step: many"), ":5: a.expect.step: 'many' is not a whole number of 1 or more"),
        (expected("step: 0.5"), ":5: a.expect.step: '0.5' is not a whole number of 1 or more"),
        (expected("loss: {fals_by: 3}"), ":5: a.expect.loss.fals_by: unknown key. Did you mean falls_by?"),
        (expected("loss: {falls_by: .nan}"), ":5: a.expect.loss.falls_by: '.nan' is not a number"),
        (expected("learning_rate: ok"), ":5: a.expect.learning_rate: 'ok' is no schedule"),
        (expected("learning_rate: {kind: cosine, peak: 1}"), ":5: a.expect.learning_rate: has no total"),
        (expected("memory: lots"), ":5: a.expect.memory: 'lots' is no size. Write 500M or 2G"),
        (expected("scraped: maybe"), ":5: a.expect.scraped: 'maybe' is neither true nor false"),
        (expected("log_has: '('"), ":5: a.expect.log_has: '(' is not a regular expression"),
        (expected("incident: {cause: socket}"), ":5: a.expect.incident: needs a cause and a time"),
        (expected("incident: {cause: socket-raed, within: 3}"), "is no cause. Did you mean socket-read?"),
        (expected("measured: {x: {at_lest: 3}}"), ":5: a.expect.measured.x.at_lest: unknown key"),
        (expected("exit: 300"), ":5: a.expect.exit: '300' is not a whole number from 0 to 255"),
        (expected("tokens_per_second: 0"), ":5: a.expect.tokens_per_second: '0' is not above 0"),
        (expected("memory: 0"), ":5: a.expect.memory: '0' is no size"),
        (expected(f"memory: {'9' * 400}"), "is no size. Write 500M or 2G"),
        (expected("files: /etc/passwd"), ":5: a.expect.files: '/etc/passwd' is not below its run directory"),
        (expected("files: [a, b/../../c]"), ":5: a.expect.files: 'b/../../c' is not below its run directory"),
        (
            expected("learning_rate: {peak: 1, warmup: 9, total: 8}"),
            ":5: a.expect.learning_rate.warmup: 9 is more than the total of 8",
        ),
        (
            expected("learning_rate: {peak: 1, total: 8, floor: 2}"),
            ":5: a.expect.learning_rate.floor: '2' is no ratio",
        ),
        (expected("learning_rate: {peak: -1, total: 8}"), "learning_rate.peak: '-1' is not above 0"),
        (expected("log_lacks: ''"), ":5: a.expect.log_lacks: is empty, which every line matches"),
        (expected("incident: {cause: healthy, within: 3}"), "'healthy' is no cause"),
        (
            expected("measured: {x: {at_least: 5, at_most: 3}}"),
            ":5: a.expect.measured.x: nothing is at least 5 and at most 3",
        ),
        (stage("budget: 800 h"), ":4: a.budget: '800 h' is more than 30 days"),
        (stage("environment: {'a=b': c}"), ":4: a.environment.a=b: cannot name a variable"),
        (
            "stages:\n  - name: a\n    command: run | tee log\n",
            ":3: a.command: '|' is for a shell, and none runs it",
        ),
        ("stages:\n  - name: a\n    command: A=1 run\n", ":3: a.command: begins with A=. Variables belong"),
        ("values: {x: [a, ../b]}\n" + stage("for_each: x"), ":5: a.for_each: '../b' cannot be part of a"),
        (stage('"\\e[31mx": 1'), ":4: stages[0].x: unknown key"),
        ("a\xadb: 1\n", ":1: a\\xadb: unknown key"),
        ("include: .\n", ":1: include: "),
        (expected("measured: {x: {remedy: a}}"), ":5: a.expect.measured.x: says nothing of it"),
        ("include: other.yaml\n", ":1: include: "),
        ("include: other.yaml\n", "other.yaml: no such file. Name a YAML file"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    assert said in complaint(tmp_path, text)


@pytest.mark.parametrize("data", [b"\xff\xfe\0", b"a" * (1 << 21), b"\x00", b"name: \x1b[31m\n"])
def test_what_is_no_plan_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(data)
    with pytest.raises(UsageError) as found:
        plan.load(path)
    assert "\n" not in str(found.value)
    assert "\x1b" not in str(found.value)


def test_a_folder_and_an_unknown_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        plan.load(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        plan.load(tmp_path / "none.yaml")


def test_values_stand_in_commands_budgets_and_expectations(tmp_path: Path) -> None:
    text = """
values: {steps: 30, more: [--set, a=b c], time: 2 m, only_here: "{here}/x"}
stages:
  - name: train
    command: "{python} {only_here} 'two words {steps}' {more} $HOME ${steps}"
    budget: "{time}"
    expect: {step: "{steps}", log_lacks: 'a{2}'}
"""
    (found,) = load(tmp_path, text, steps="7").stages
    assert found.command == (
        sys.executable, f"{tmp_path}/x", "two words 7", "--set", "a=b c", "$HOME", "${steps}",
    )  # fmt: skip
    assert found.budget_seconds == 120.0
    assert expect.StepReached(step=7) in found.expectations
    assert expect.LogLacks(pattern="a{2}") in found.expectations


def test_a_stage_for_each_value_and_those_that_need_it_need_all(tmp_path: Path) -> None:
    text = """
values: {dtype: [fp32, bf16]}
budgets: {model: 7}
stages:
  - {name: model, command: "run {dtype}", for_each: dtype}
  - {name: train, command: run, needs: model}
"""
    one, two, train = load(tmp_path, text).stages
    assert [(s.name, s.command, s.budget_seconds) for s in (one, two)] == [
        ("model-fp32", ("run", "fp32"), 7.0),
        ("model-bf16", ("run", "bf16"), 7.0),
    ]
    assert train.needs == ("model-fp32", "model-bf16")
    single = load(tmp_path, text, dtype="fp32").stages
    assert [s.name for s in single] == ["model", "train"]


def test_an_included_file_comes_first_and_its_values_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "stages.yaml").write_text(
        "values: {x: '1', where: '{here}'}\nstages: [{name: a, command: 'run {x} {where} {here}'}]\n"
    )
    text = "include: sub/stages.yaml\nvalues: {x: '2'}\nstages: [{name: b, command: '{here}', needs: a}]\n"
    one, two = load(tmp_path, text).stages
    assert one.command == ("run", "2", f"{tmp_path}/sub", f"{tmp_path}/sub")
    assert two.command == (str(tmp_path),)
    (tmp_path / "sub" / "stages.yaml").write_text("stages:\n  - {name: a, command: 'run {y}'}\n")
    assert "sub/stages.yaml:2: a.command: {y} stands for nothing" in complaint(tmp_path, text)


def test_what_is_none_is_not_expected(tmp_path: Path) -> None:
    (found,) = load(tmp_path, expected("gpu_memory: none", "memory: 1 GB")).stages
    assert expect_steps.HostMemory(at_most_bytes=2**30) in found.expectations
    assert not any(isinstance(each, expect_steps.GpuMemory) for each in found.expectations)


def test_success_and_no_stall_are_expected_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    (plain,) = load(tmp_path, ONE).stages
    assert plain.expectations == (expect.ExitStatus(allowed=(0,)), expect.NoIncident())
    (drill,) = load(tmp_path, expected("incident: {cause: [sleep, socket-read], within: 30}")).stages
    assert drill.expectations == (
        expect.ExitStatus(allowed=(124,)),
        expect.IncidentFound(causes=("sleep", "socket-read"), within_seconds=30.0),
    )
    (fails,) = load(tmp_path, expected("exit: [2, 3]")).stages
    assert fails.expectations[0] == expect.ExitStatus(allowed=(2, 3))


def test_scaling_multiplies_every_time_limit(tmp_path: Path) -> None:
    text = (
        expected("incident: {cause: sleep, within: 30}") + "    budget: 10\n    stall: 5,train=2,eval=off\n"
    )
    (found,) = load(tmp_path, text).scaled(3.0).stages
    assert found.budget_seconds == 30.0
    assert found.stall == "15,train=6,eval=off"
    assert expect.IncidentFound(causes=("sleep",), within_seconds=90.0) in found.expectations


def test_choosing_stages(tmp_path: Path) -> None:
    found = load(tmp_path, ONE + "".join(f"  - {{name: {n}, command: x}}\n" for n in "bcd"))
    names = lambda *args: [s.name for s in found.selected(*args)]  # noqa: E731
    assert names([], None) == ["a", "b", "c", "d"]
    assert names(["c", "a"], None) == ["a", "c"]
    assert names([], "c") == ["c", "d"]
    assert names(["a", "d"], "b") == ["d"]
    with pytest.raises(UsageError, match="no stage 'e'"):
        names(["e"], None)
    with pytest.raises(UsageError, match="no stage ''"):
        names([], "")


def test_the_name_in_the_file_chooses_all_stages_made_of_it(tmp_path: Path) -> None:
    text = (
        "values: {dtype: [fp32, bf16]}\nstages:\n"
        "  - {name: a, command: x}\n  - {name: m, command: 'x {dtype}', for_each: dtype}\n"
        "  - {name: z, command: x}\n"
    )
    found = load(tmp_path, text)
    names = lambda *args: [s.name for s in found.selected(*args)]  # noqa: E731
    assert names(["m"], None) == ["m-fp32", "m-bf16"]
    assert names(["m-bf16", "z"], None) == ["m-bf16", "z"]
    assert names([], "m") == ["m-fp32", "m-bf16", "z"]
    assert names([], "m-bf16") == ["m-bf16", "z"]


def test_what_a_plan_says_of_itself_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    text = 'name: "\\e[31mred"\nstages: [{name: a, command: x, summary: "b\\e[2Jc"}]\n'
    found = load(tmp_path, text)
    assert (found.name, found.stages[0].summary) == ("red", "bc")


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--set stesp: .* has no such value\. Did you mean steps\?"):
        load(tmp_path, "values: {steps: 1}\n" + stage("budget: '{steps}'"), stesp="3")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_our_plans_are_read(name: str) -> None:
    found = plan.load(REPOSITORY / "configs" / "smoke" / f"{name}.yaml")
    stages = [stage.name.removesuffix("-fp32") for stage in found.stages if not stage.name.endswith("-bf16")]
    assert stages == [
        "environment", "import", "config", "tokenizer", "data", "model", "attention", "overfit", "train",
        "checkpoint", "distributed", "stall-drill",
    ]  # fmt: skip
    assert Path(found.stages[0].command[4]).exists()
