"""What is done about a stall and about an ended command."""

from __future__ import annotations

import signal

import pytest

from harness.supervise.policy import (
    BACKOFF_MAX_SECONDS,
    End,
    Ending,
    EndTree,
    GoOn,
    Restart,
    Settings,
    after_ending,
    after_stall,
)

RESTART = Settings(on_stall="restart", max_restarts=5)


def crash(step: int | None = None, status: int = 1, killed_by: int | None = None) -> Ending:
    return Ending(exit_status=status, killed_by=killed_by, last_step=step)


STALL = Ending(exit_status=143, killed_by=signal.SIGTERM, stalled=True, last_step=7)


def test_report_never_touches_the_command() -> None:
    assert isinstance(after_stall(Settings(on_stall="report")), GoOn)


@pytest.mark.parametrize("choice", ["terminate", "restart"])
def test_the_others_end_the_whole_tree_gently_first(choice: str) -> None:
    action = after_stall(Settings(on_stall=choice))  # type: ignore[arg-type]
    assert isinstance(action, EndTree)


@pytest.mark.parametrize("status", [0, 1, 2, 3, 75, 139])
def test_without_restart_the_status_is_the_commands_own(status: int) -> None:
    for choice in ("report", "terminate"):
        settings = Settings(on_stall=choice)  # type: ignore[arg-type]
        assert after_ending(settings, [crash(status=status)]) == End(exit_status=status)


def test_ended_because_it_stalled_is_124_even_where_it_obeyed_with_0_or_75() -> None:
    for status in (0, 75, 143):
        ending = Ending(exit_status=status, stalled=True)
        assert after_ending(Settings(on_stall="terminate"), [ending]) == End(exit_status=124)


@pytest.mark.parametrize(
    "ending",
    [
        STALL,
        crash(5),
        crash(5, 137, signal.SIGKILL),
        crash(5, 139, signal.SIGSEGV),
        crash(None, 3),
        crash(1, 4),
    ],
)
def test_stalls_and_deaths_are_restarted(ending: Ending) -> None:
    assert isinstance(after_ending(RESTART, [ending]), Restart)


@pytest.mark.parametrize("status", [2, 75, 126, 127])
def test_what_a_restart_cannot_mend_is_not_restarted_and_said(status: int) -> None:
    decision = after_ending(RESTART, [crash(5, status)])
    assert isinstance(decision, End)
    assert decision.exit_status == status
    assert decision.why is not None
    assert f"exit {status}" in decision.why


def test_a_good_end_needs_no_restart_and_no_words() -> None:
    assert after_ending(RESTART, [crash(9, 0)]) == End(exit_status=0)


def test_who_asks_to_stop_is_obeyed() -> None:
    asked = Ending(exit_status=130, killed_by=signal.SIGINT, asked_to_stop=True)
    assert after_ending(RESTART, [asked]) == End(exit_status=130)
    directly = after_ending(RESTART, [crash(5, 143, signal.SIGTERM)])
    assert isinstance(directly, End)
    assert "SIGTERM" in (directly.why or "")


def test_stalled_and_asked_to_stop_meanwhile_ends_with_its_own_status() -> None:
    ending = Ending(exit_status=143, killed_by=signal.SIGTERM, stalled=True, asked_to_stop=True)
    assert after_ending(RESTART, [ending]) == End(exit_status=143)


def test_restarts_are_counted() -> None:
    settings = Settings(on_stall="restart", max_restarts=2)
    endings = [crash(1)]
    assert isinstance(after_ending(settings, endings), Restart)
    endings.append(crash(2))
    assert isinstance(after_ending(settings, endings), Restart)
    endings.append(STALL)
    decision = after_ending(settings, endings)
    assert decision == End(exit_status=124, why="not restarted: --max-restarts 2 used up")
    assert isinstance(after_ending(Settings(on_stall="restart", max_restarts=0), [STALL]), End)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((3, 7, 7, 7), "did not get past step 7"),
        ((9, None, None), "did not get past step 9"),  # died before a step of their own was done
        ((10, 4, 8), "did not get past step 10"),
        ((None, None, None), "did not get past their start"),
    ],
)
def test_three_in_a_row_that_get_no_further_are_enough(steps: tuple[int | None, ...], words: str) -> None:
    endings = [crash(step) for step in steps]
    assert isinstance(after_ending(RESTART, endings[:-1]), Restart)
    decision = after_ending(RESTART, endings)
    assert isinstance(decision, End)
    assert decision.exit_status == 1
    assert words in (decision.why or "")


def test_pauses_grow_while_nothing_is_gained_and_shrink_once_something_is() -> None:
    many = Settings(on_stall="restart", max_restarts=100)

    def pause(*steps: int) -> float:
        decision = after_ending(many, [crash(step) for step in steps])
        assert isinstance(decision, Restart)
        return decision.after_seconds

    assert pause(5) == pause(5, 6) == pause(5, 5, 6) < pause(5, 6, 6) <= BACKOFF_MAX_SECONDS
