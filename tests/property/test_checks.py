"""harness.properties, as its users have it: sound things pass, known faults are told with a small example."""

from __future__ import annotations

import re
import sys

import pytest

from harness import properties
from harness.properties import PropertyFault, check_lr_schedule, check_packing, check_truncation, stepped
from nsa import schedule
from tests.property import faulty, faulty_schedule
from tests.support.env import REPOSITORY, clean_env
from tests.support.examples import examples
from tests.support.programs import completed

LIMIT = 1024


def faults(check, *arguments, **options):
    """What a check finds, by property."""
    with pytest.raises(PropertyFault) as caught:
        check(*arguments, **options)
    return {fault.property: fault for fault in caught.value.faults}


def test_every_shape_is_drawn_where_none_is_given():
    check_lr_schedule(schedule.lr, examples=examples(30))


def test_the_smallest_shape_that_fails_is_told():
    found = faults(check_lr_schedule, faulty_schedule.rises_past_the_end, examples=examples(30))
    told = found["the floor for ever after the end"].example
    assert told == "lr(2) = 1, not 0, with peak=1, warmup=0, total=1, floor=0"


def test_the_schedule_of_the_case_is_told_apart_from_what_it_was_meant_to_be():
    m7c = {"peak": 2e-4, "warmup": 2000, "total": 50_000, "floor": 0.1}
    found = faults(check_lr_schedule, faulty_schedule.reported, **m7c)
    assert "to lr(100000) = 0.000199" in found["rises in warm-up, falls after"].example
    with_fix = faults(check_lr_schedule, faulty_schedule.reported_fix, **m7c)
    assert "not 2e-05" in with_fix["the floor for ever after the end"].example


def test_an_error_is_a_fault_with_its_smallest_shape_and_its_line():
    def divides(step, *, peak, warmup, total, floor):
        return peak * (step + 1) / warmup

    (fault,) = faults(check_lr_schedule, divides, examples=examples(30)).values()
    assert fault.property == "no error"
    assert re.match(r"ZeroDivisionError: .*division by zero at test_checks.py:\d+; ", fault.example)
    assert fault.example.endswith("; with peak=1, warmup=0, total=1, floor=0")

    def breaks(documents, sequence_length):
        return [max(document) for document in documents]

    (fault,) = faults(check_packing, breaks, examples=examples(30)).values()
    assert "; documents of [0] tokens into sequences of 2" in fault.example

    def refuses(text):
        raise RuntimeError("never")

    found = faults(check_truncation, faulty.Bytes(), limit=4, encode=refuses, examples=examples(30))
    assert "RuntimeError: never at test_checks.py:" in found["no error"].example


def test_a_schedule_that_remembers_is_found_though_it_never_says_the_same_twice():
    found = faults(check_lr_schedule, faulty_schedule.remembers(), examples=examples(30))
    assert "the same rates when resumed" in found


def test_a_schedule_with_one_shape_is_called_with_the_step_alone():
    check_lr_schedule(
        lambda step: 1e-3 * min(1.0, (step + 1) / 10), peak=1e-3, warmup=10, total=50, floor=1.0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak": 1.0}, "takes no"),
        ({"peak": 1.0, "warmup": 20, "total": 10}, "longer than the run"),
        ({"peak": 1.0, "warmup": 1.5, "total": 10}, "warmup is 1.5"),
        ({"peak": -1.0, "warmup": 1, "total": 10}, "peak is -1.0"),
        ({"peak": 1.0, "warmup": 1, "total": 10, "floor": 2}, "floor is 2"),
    ],
)
def test_a_check_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_lr_schedule(lambda step: 1.0, **options)


@pytest.mark.parametrize("pack", faulty.PACKERS, ids=lambda pack: pack.__name__)
def test_a_packer_with_a_known_fault_is_refused(pack):
    assert set(faults(check_packing, pack, examples=max(50, examples(50)))) == faulty.PACKERS[pack]


def test_a_sound_packer_passes_and_may_keep_the_rest_back():
    def pack(documents, sequence_length):
        pending = []
        for document in documents:
            pending += [*document, 0]
            while len(pending) >= sequence_length:
                yield pending[:sequence_length]
                del pending[:sequence_length]

    check_packing(pack, examples=examples(50))
    check_packing(lambda documents: pack(documents, 7), sequence_length=7, examples=examples(50))


def test_the_smallest_stream_that_loses_a_token_is_told():
    found = faults(check_packing, faulty.drops_long_documents, examples=examples(50))
    told = found["nothing lost, repeated or moved"].example
    assert told.endswith("documents of [2, 1] tokens into sequences of 2") or "documents of [" in told


@pytest.mark.parametrize(
    ("encode", "eos_id", "broken"), faulty.TRUNCATIONS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_truncation_with_a_known_fault_is_refused(encode, eos_id, broken):
    found = faults(
        check_truncation,
        faulty.Bytes(),
        limit=LIMIT,
        encode=lambda text: encode(text, LIMIT),
        eos_id=eos_id,
        examples=max(30, examples(30)),
    )
    assert set(found) == {broken}


def test_a_sound_truncation_passes_with_and_without_its_end():
    check_truncation(faulty.Bytes(), limit=LIMIT, examples=examples(30))
    check_truncation(
        faulty.Bytes(),
        limit=LIMIT,
        encode=lambda text: [*faulty.tokens(text)[: LIMIT - 1], faulty.EOS],
        eos_id=faulty.EOS,
        examples=examples(30),
    )


def test_m7c_1249_tokens_into_1024_and_max_length_1023():
    """The case's numbers: 225 tokens go with truncation, and one more with its fix, of a text that fits."""
    long, fits = "x" * 1249, "x" * 1024
    assert len(faulty.Bytes()(long, truncation=True, max_length=1024)) == 1024
    assert len(faulty.one_less(fits, 1024)) == 1023
    found = faults(
        check_truncation,
        faulty.Bytes(),
        limit=1024,
        encode=lambda text: faulty.one_less(text, 1024),
        examples=examples(30),
    )
    assert "1023 of" in found["nothing is lost that fits"].example


USER_TEST = """
def test_rises(check_lr_schedule):
    shape = dict(peak=1.0, warmup=0, total=10, floor=0.5)
    check_lr_schedule(lambda step: 1.0 if step < 10 or step > 20 else 0.5, **shape)

def test_fine(check_packing):
    def pack(documents, n):
        joined = [t for d in documents for t in (*d, 0)]
        return [joined[at : at + n] for at in range(0, len(joined) - n + 1, n)]
    check_packing(pack)
"""


def test_the_plugin_gives_fixtures_and_a_failure_that_says_what_to_mend(tmp_path):
    (tmp_path / "test_user.py").write_text(USER_TEST)
    done = completed(
        [
            *(sys.executable, "-m", "pytest", "-p", "harness.properties.plugin", "-p", "no:randomly"),
            *("-p", "no:cacheprovider", "--harness-examples", "20", "test_user.py"),
        ],
        cwd=tmp_path,
        env=clean_env(PYTHONPATH=str(REPOSITORY), COLUMNS="200"),
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "the floor for ever after the end: lr(21) = 1, not 0.5" in done.stdout
    assert "Clamp the progress to [0, 1]" in done.stdout
    assert "harness/properties" not in done.stdout.split("short test summary")[0], (
        "shows our code, not theirs"
    )


def test_what_pytest_loads_in_every_run_is_the_plugin_alone():
    """Its package is imported through pytest's rewriting of asserts, wherever the harness is installed."""
    program = (
        "import sys, pytest, harness.properties.plugin\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ('harness', 'hypothesis')))"
    )
    done = completed([sys.executable, "-c", program], cwd=REPOSITORY)
    assert done.stdout == "['harness', 'harness.properties', 'harness.properties.plugin']\n", done.stderr


def test_the_public_names_are_there_and_no_others():
    assert all(getattr(properties, name).__name__ == name for name in properties.__all__)
    assert set(properties.__all__) == set(properties._MODULES)
    with pytest.raises(AttributeError, match="has no attribute 'check_nothing'"):
        _ = properties.check_nothing


@pytest.mark.needs("torch")
def test_the_page_of_documentation_passes_as_it_stands(tmp_path):
    page = (REPOSITORY / "docs/how-to/properties.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "test_page.py").write_text(code)
    done = completed(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "harness.properties.plugin"),
            *("-p", "no:cacheprovider", "--harness-examples", "20"),
        ],
        cwd=tmp_path,
        env=clean_env(PYTHONPATH=str(REPOSITORY)),
        timeout=120,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


SHAPE = {"peak": 2e-4, "warmup": 20, "total": 500, "floor": 0.0}
WASTED, CLIMBS = "0 < lr <= peak while training", "rises in warm-up, falls after"
NO_FLOOR, LINEAR = "the floor for ever after the end", "linear in the peak"
# transformers' schedules by name: how they are made, their floor, and what does not hold.
SCHEDULES = {
    "constant": ({}, 1.0, set()),
    "constant_with_warmup": ({"num_warmup_steps"}, 1.0, {WASTED}),
    "linear": ({"num_warmup_steps", "num_training_steps"}, 0.0, {WASTED}),
    "cosine": ({"num_warmup_steps", "num_training_steps"}, 0.0, {WASTED, CLIMBS, NO_FLOOR}),
    "polynomial": ({"num_warmup_steps", "num_training_steps"}, 0.0, {WASTED, NO_FLOOR, LINEAR}),
    "inverse_sqrt": ({"num_warmup_steps"}, 0.0, {WASTED, NO_FLOOR}),
    "cosine_with_min_lr": (
        {"num_warmup_steps", "num_training_steps", "min_lr_rate"},
        0.1,
        {WASTED, CLIMBS, NO_FLOOR},
    ),
    "cosine_warmup_with_min_lr": (
        {"num_warmup_steps", "num_training_steps", "min_lr_rate"},
        0.1,
        {CLIMBS, NO_FLOOR},
    ),
}


def scheduler_of(name, peak, warmup, total):
    """As transformers' Trainer makes it."""
    import torch
    import transformers

    asked, _, _ = SCHEDULES[name]
    options = {"num_warmup_steps": warmup, "num_training_steps": total}
    special = {"min_lr_rate": 0.1} if "min_lr_rate" in asked else {}
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    return made, transformers.get_scheduler(
        name,
        made,
        **{key: value for key, value in options.items() if key in asked},
        scheduler_specific_kwargs=special or None,
    )


def made_by(name):
    def make(peak, warmup, total):
        return scheduler_of(name, peak, warmup, total)

    return stepped(make)


@pytest.mark.needs("torch", "transformers")
@pytest.mark.parametrize("name", SCHEDULES)
def test_transformers_schedules_have_these_faults_and_no_others(name):
    _, floor, broken = SCHEDULES[name]
    shape = {**SHAPE, "floor": floor, **({"warmup": 0} if name == "constant" else {})}
    if broken:
        assert set(faults(check_lr_schedule, made_by(name), **shape)) == broken
    else:
        check_lr_schedule(made_by(name), **shape)


@pytest.mark.needs("torch", "transformers")
def test_the_smallest_run_in_which_transformers_cosine_fails_is_told():
    found = faults(check_lr_schedule, made_by("cosine"), **SHAPE)
    assert found[WASTED].example.startswith("lr(0) = 0 ")
    assert "lr(500) = 0 to lr(501)" in found[CLIMBS].example
    found = faults(check_lr_schedule, made_by("cosine"), peak=2e-4, examples=10)
    assert found[WASTED].example == "lr(0) = 0 with peak=0.0002, warmup=1, total=1, floor=0"
    assert found[NO_FLOOR].example == "lr(2) = 0.0002, not 0, with peak=0.0002, warmup=0, total=1, floor=0"


@pytest.mark.needs("torch")
def test_torch_lambda_lr_is_as_sound_as_its_lambda():
    import torch

    def ours(peak, warmup, total, floor):
        made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        shape = {"warmup": warmup, "total": total, "floor": floor}
        return made, torch.optim.lr_scheduler.LambdaLR(
            made, lambda step: schedule.lr(step, peak=1.0, **shape)
        )

    def reported(peak, warmup, total, floor):
        made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        shape = {"peak": 1.0, "warmup": warmup, "total": total, "floor": floor}
        return made, torch.optim.lr_scheduler.LambdaLR(
            made, lambda step: faulty_schedule.reported(step, **shape)
        )

    check_lr_schedule(stepped(ours), **{**SHAPE, "floor": 0.1})
    found = faults(check_lr_schedule, stepped(reported), **{**SHAPE, "floor": 0.1})
    assert set(found) == {CLIMBS, NO_FLOOR}


@pytest.mark.needs("transformers", "tokenizers")
def test_a_tokenizer_of_transformers_keeps_its_limit_and_says_nothing(tmp_path):
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<unk>": 1, "word": 2}, "<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=8)
    check_truncation(tokenizer, limit=8, examples=examples(30))
    found = faults(
        check_truncation,
        tokenizer,
        limit=8,
        encode=lambda text: tokenizer(text)["input_ids"][:8],
        examples=examples(30),
    )
    assert set(found) == {"no warning"}
    assert "longer than the specified maximum" in found["no warning"].example
