"""Which panels the dashboard has: their queries and their words, row by row.

Not here: what every panel has (`parts`), the dashboard around them (`build`).
"""

from __future__ import annotations

from parts import (
    LEGEND,
    Panel,
    bars,
    c,
    d,
    dashed,
    lines,
    mapped,
    number,
    p,
    panel,
    query,
    statetimeline,
    table,
)

from harness.wire import PHASES, STAGES

# What a whole run has, and what each rank of it has.
RUN = 'job=~"$job",instance=~"$instance",run_id=~"$run_id"'
RANK = f'{RUN},rank=~"$rank"'
EACH = "{{run_id}} rank {{rank}}"

# By what a stage is for: learning, looking, keeping; getting ready is yellow.
STAGE_COLOURS = {
    "train": "green",
    "eval": "blue",
    "checkpoint": "purple",
    "compile": "orange",
    "finish": "text",
}
OTHER_STAGE = len(STAGES) + 1
STAGE_WORDS = {
    **{at: (name, STAGE_COLOURS.get(name, "yellow")) for at, name in enumerate(STAGES, 1)},
    OTHER_STAGE: ("other", "light-yellow"),
}


def of_run(metric: str) -> str:
    """The metric, of the chosen runs."""
    return f"{metric}{{{RUN}}}"


def of_rank(metric: str, more: str = "") -> str:
    """The metric, of the chosen ranks."""
    return f"{metric}{{{RANK}{more}}}"


def rate(metric: str) -> str:
    """How much more of it each second."""
    return f"rate({of_rank(metric)}[$__rate_interval])"


def stages() -> str:
    """The stage that each chosen rank is in, by its number in STAGE_WORDS."""
    selectors = [*(f'="{name}"' for name in STAGES), f'!~"{"|".join(STAGES)}"']
    return " or ".join(
        f"{at} * ({of_rank('trainer_stage', ',stage' + selector)} == 1)"
        for at, selector in enumerate(selectors, 1)
    )


STEPS = f"{rate('trainer_step_duration_seconds_count')} > 0"
AGE = f"time() - {of_rank('trainer_last_progress_timestamp_seconds')} and {of_rank('trainer_up')} == 1"


def status() -> list[Panel]:
    """How is it?"""
    up, done = of_rank("trainer_up"), of_rank("trainer_finished")
    # The first that holds: stalled, going, finished; else it is gone.
    state = f"""
        group by (run_id) (
          time() - {of_rank("trainer_last_progress_timestamp_seconds")}
            > {of_rank("trainer_stall_timeout_seconds")}
          and {up} == 1
        )
        or 2 * (max by (run_id) ({up}) == 1 and min by (run_id) ({up} + {done}) >= 1)
        or 3 * (min by (run_id) (max by (run_id, rank) (last_over_time({done}[$__range]))) == 1)
        or 0 * group by (run_id) (last_over_time({up}[$__range]))
    """
    words = {0: ("GONE", "red"), 1: ("STALLED", "orange"), 2: ("TRAINING", "green"), 3: ("FINISHED", "blue")}
    left = f"""
        max by (run_id) ({of_rank("trainer_target_steps")} - {of_rank("trainer_step")})
        / max by (run_id) ({STEPS})
    """
    return [
        panel(
            number(steps={None: "red"})
            .color_mode(c.BigValueColorMode.BACKGROUND)
            .mappings(mapped(words, nothing="DOWN"))
            .no_value("DOWN"),
            *(1, "Status", "none", 6, 5),
            """TRAINING: the chosen ranks move. STALLED: one has been without progress for longer
            than its limit. GONE: one ended without having finished, or nobody watches it. DOWN: nothing of
            the chosen runs was seen in this time range.""",
            query(state, "{{run_id}}", instant=True),
            runbooks=("TrainerStalled", "TrainerVanished", "TrainerDown"),
        ),
        panel(
            number().mappings(mapped(STAGE_WORDS)).no_value("none"),
            *(2, "Stage", "none", 4, 5),
            """Where the ranks are now; more than one of a run where they differ. A stage under a name of its
            own is shown as other.""",
            query(f"max by (run_id, stage) ({stages()})", "{{run_id}}", instant=True),
        ),
        panel(
            number(),
            *(3, "Step", "none", 4, 5),
            "The last optimizer step done. It goes back where a run resumes from a checkpoint.",
            query(f"max by (run_id) ({of_rank('trainer_step')})", "{{run_id}}"),
        ),
        panel(
            number(),
            *(4, "Done", "percentunit", 3, 5),
            "Steps done of those that the run is to have.",
            query(
                f"max by (run_id) ({of_rank('trainer_step')} / {of_rank('trainer_target_steps')})",
                "{{run_id}}",
            ),
        ),
        panel(
            number(),
            *(5, "Time left", "s", 4, 5),
            "At the present rate, evaluations and checkpoints included. Nothing while no step is done.",
            query(left, "{{run_id}}"),
        ),
        panel(
            number(steps={None: "text", 2: "orange"}),
            *(6, "Attempt", "none", 3, 5),
            "Which start of the run this is: restarts count it up.",
            query(f"max by (run_id) ({of_rank('trainer_attempt')})", "{{run_id}}"),
            runbooks=("TrainerCrashLooping",),
        ),
    ]


def learning() -> list[Panel]:
    """Does it learn?"""
    group = f"{EACH} group {{{{group}}}}"
    return [
        panel(
            lines(),
            *(11, "Loss", "none", 12, 8),
            "Of the last step before each scrape; every step stands in the run's metrics.jsonl.",
            query(of_rank("trainer_loss"), EACH),
            runbooks=("LossSpike", "TrainerLossNonFinite"),
        ),
        panel(
            dashed(lines(floor=0), "B"),
            *(12, "Learning rate and its schedule", "sci", 12, 8),
            "What the optimizer used, and, dashed, what the schedule that the trainer declared asks for.",
            query(of_rank("trainer_learning_rate"), group),
            query(of_rank("trainer_scheduled_learning_rate"), f"schedule {group}", ref="B"),
            runbooks=("LearningRateZero",),
        ),
        panel(
            lines(floor=0),
            *(13, "Gradient norm", "none", 12, 8),
            "Of the last step, as the trainer reports it.",
            query(of_rank("trainer_grad_norm"), EACH),
        ),
        panel(
            lines(floor=0).draw_style(c.GraphDrawStyle.BARS),
            *(14, "Steps that are not finite", "none", 12, 8),
            """Steps whose loss or gradient norm was NaN or infinite. A loss scaler skips a few; many are the
            end.""",
            query(f"increase({of_rank('trainer_nonfinite_total')}[$__rate_interval])", EACH),
            runbooks=("TrainerLossNonFinite",),
        ),
    ]


def speed() -> list[Panel]:
    """How fast is it, and where does the time go?"""
    buckets = f"sum by (run_id, le) ({rate('trainer_step_duration_seconds_bucket')})"
    phases = f"""
        sum by (run_id, phase) ({rate("trainer_phase_seconds_total")})
        / on (run_id) group_left () sum by (run_id) ({STEPS})
    """
    return [
        panel(
            lines(floor=0),
            *(21, "Tokens per second", "short", 8, 8),
            "Of all chosen ranks together, pauses included.",
            query(f"sum by (run_id) ({rate('trainer_tokens_total')})", "{{run_id}}"),
            runbooks=("ThroughputDropped",),
        ),
        panel(
            lines(floor=0),
            *(22, "Step time", "s", 8, 8),
            "A usual step, and a slow one in ten; evaluations and checkpoints within steps are left out.",
            query(f"histogram_quantile(0.5, {buckets})", "{{run_id}} median"),
            query(f"histogram_quantile(0.9, {buckets})", "{{run_id}} 90 %", ref="B"),
            runbooks=("ThroughputDropped",),
        ),
        panel(
            # Of several runs each has its own: stacked on another's, a step would look as long as both.
            lines(stacked=True, floor=0).repeat("run_id").repeat_direction("v"),
            *(23, "Step time by phase", "s", 8, 8),
            f"Seconds per step, by what they went into: {', '.join(PHASES[:-1])}, or {PHASES[-1]}.",
            query(phases, "{{phase}} · {{run_id}}"),
            runbooks=("ThroughputDropped",),
        ),
    ]


def progress() -> list[Panel]:
    """Does it move?"""
    # A stall's series begins at 1: increase() would miss the first one.
    stalls = f"sum by (run_id, cause, stage) (last_over_time({of_run('trainer_stalls_total')}[$__range]))"
    return [
        panel(
            statetimeline.Panel()
            .mappings(mapped(STAGE_WORDS))
            .merge_values(True)
            .show_value(c.VisibilityMode.AUTO)
            .row_height(0.8)
            .legend(LEGEND),
            *(31, "Stages", "none", 24, 8),
            "What each rank was doing, over time. A stage under a name of its own is shown as other.",
            query(f"max by (run_id, rank) ({stages()})", EACH),
        ),
        panel(
            dashed(lines(floor=0), "B", colour="red"),
            *(32, "Last progress and its limit", "s", 10, 8),
            """For how long each living rank has been without progress, and, dashed, how long it may be, in
            the stage that it is in.""",
            query(AGE, EACH),
            query(f"{of_rank('trainer_stall_timeout_seconds')} < Inf", f"limit {EACH}", ref="B"),
            runbooks=("TrainerStalled",),
        ),
        panel(
            dashed(lines(floor=0), "B"),
            *(33, "Checkpoints", "s", 7, 8),
            "Age of the last one, and, dashed, the time between the last two.",
            query(f"time() - {of_run('trainer_last_checkpoint_timestamp_seconds')}", "age {{run_id}}"),
            query(of_run("trainer_checkpoint_interval_seconds"), "interval {{run_id}}", ref="B"),
            runbooks=("CheckpointOverdue",),
        ),
        panel(
            bars(steps={None: "orange"}).no_value("no stalls"),
            *(34, "Incidents by cause", "none", 7, 8),
            """Stalls of the chosen runs, by cause and stage. Their evidence is in the run directory: harness
            explain RUN_DIR/incidents/001.""",
            query(stalls, "{{cause}} in {{stage}} · {{run_id}}", instant=True),
            runbooks=("TrainerStalled",),
        ),
    ]


def ranks() -> list[Panel]:
    """Is one of them different?"""
    patience = f"""
        (time() - {of_rank("trainer_last_progress_timestamp_seconds")})
        / {of_rank("trainer_stall_timeout_seconds")}
        and {of_rank("trainer_up")} == 1
    """
    behind = (
        f"max by (run_id) ({of_rank('trainer_step')}) - on (run_id) group_right () {of_rank('trainer_step')}"
    )
    return [
        panel(
            bars(steps={None: "green", 0.5: "orange", 1: "red"}).max(1),
            *(41, "Progress by rank", "percentunit", 8, 8),
            """How much of its limit each rank has been without progress, of the sixteen nearest to it; full
            and red: over it. The one that is behind is where to look: the others wait for it.""",
            query(f"topk(16, {patience})", EACH, instant=True),
            runbooks=("TrainerStalled",),
        ),
        panel(
            lines(floor=0),
            *(42, "Steps behind the foremost rank", "none", 8, 8),
            "Ranks that train together stay within a step of each other.",
            query(behind, EACH),
        ),
        panel(
            lines(floor=0),
            *(43, "Step time by rank", "s", 8, 8),
            "Mean of the steps. One that takes longer than the others holds all of them up.",
            query(f"{rate('trainer_step_duration_seconds_sum')} / ({STEPS})", EACH),
            runbooks=("ThroughputDropped",),
        ),
    ]


def machine() -> list[Panel]:
    """What does it use?"""
    gpu = "{{run_id}} GPU {{gpu}}"
    kinds = ("used", "allocated", "reserved", "peak", "total")
    memory = (
        query(of_rank(f"trainer_gpu_memory_{kind}_bytes"), f"{kind} {gpu}", ref=ref)
        for kind, ref in zip(kinds, "ABCDE", strict=True)
    )
    return [
        panel(
            dashed(lines(floor=0), "E", colour="red"),
            *(51, "GPU memory", "bytes", 12, 8),
            """used, total: of the GPU, by whoever. allocated, reserved, peak: what torch gave out, holds, and
            gave out at most. Without a GPU there is nothing here.""",
            *memory,
            runbooks=("GpuMemoryNearLimit",),
        ),
        panel(
            lines(floor=0).max(1),
            *(52, "GPU utilisation", "percentunit", 6, 8),
            "Share of time in which a kernel ran: how busy it is, not how well it is used.",
            query(of_rank("trainer_gpu_utilization_ratio"), gpu),
        ),
        panel(
            lines(floor=0),
            *(53, "GPU power", "watt", 6, 8),
            "What the card draws. Less than usual under load: it throttles, or waits.",
            query(of_rank("trainer_gpu_power_watts"), gpu),
        ),
        panel(
            lines(floor=0),
            *(54, "Memory of the processes", "bytes", 12, 8),
            "Resident memory of each rank's process; its data workers are not in it.",
            query(of_rank("trainer_resident_memory_bytes"), EACH),
            runbooks=("TrainerVanished",),
        ),
        panel(
            lines(floor=0),
            *(55, "CPU of the processes", "none", 12, 8),
            "Cores that each rank's process keeps busy: 1 is one core.",
            query(rate("trainer_cpu_seconds_total"), EACH),
        ),
    ]


def runs() -> list[Panel]:
    """Which runs are these?"""
    failed = f"increase({of_run('harness_collect_errors_total')}[$__rate_interval])"
    columns = ("run_id", "name", "host", "instance", "device", "git", "config_hash", "torch")
    shown = {
        "excludeByName": dict.fromkeys(("Time", "Value", "__name__", "job"), True),
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": {"run_id": "run", "git": "commit", "config_hash": "configuration"},
    }
    info = query(f"last_over_time({of_run('trainer_run_info')}[$__range])", instant=True)
    return [
        panel(
            table.Panel().with_transformation(d.DataTransformerConfig(id_val="organize", options=shown)),
            *(61, "Runs", "string", 16, 6),
            "Configuration, commit, host and versions of each run.",
            info.format(p.PromQueryFormat.TABLE),
        ),
        panel(
            lines(floor=0).draw_style(c.GraphDrawStyle.BARS),
            *(62, "Readings that failed", "none", 8, 6),
            "Of the harness itself, by what it tried to read; what is absent or denied is no failure.",
            query(f"sum by (run_id, collector) ({failed})", "{{collector}} {{run_id}}"),
        ),
    ]


ROWS = (
    ("", status),
    ("Learning", learning),
    ("Speed", speed),
    ("Progress", progress),
    ("Ranks compared", ranks),
    ("Machine", machine),
    ("Runs", runs),
)
