"""What is wrapped in frameworks and libraries, and when; names that a version does not have are passed over.

A framework's own count of steps is better than ours (it goes on after a resume), and it knows which batch is
trained on. Hugging Face: stages, the count, the target, tokens (`input_ids`; without the padding where the
mask lies on the host). Lightning: stages, the count, the target.
"""

from harness.auto.wrapping import replace, replace_everywhere, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from harness.auto.imports import Hook
    from harness.auto.recorder import Recorder

# module, class ("" for the module itself), function, stage
_STAGES = (
    ("transformers.modeling_utils", "PreTrainedModel", "from_pretrained", "model"),
    ("transformers.models.auto.auto_factory", "_BaseAutoModelClass", "from_pretrained", "model"),
    ("transformers.tokenization_utils_base", "PreTrainedTokenizerBase", "from_pretrained", "tokenizer"),
    ("transformers.models.auto.tokenization_auto", "AutoTokenizer", "from_pretrained", "tokenizer"),
    ("transformers.trainer", "Trainer", "evaluate", "eval"),
    ("transformers.trainer", "Trainer", "predict", "eval"),
    ("transformers.trainer", "Trainer", "_save_checkpoint", "checkpoint"),
    ("transformers.trainer", "Trainer", "save_model", "checkpoint"),
    ("transformers.trainer", "Trainer", "_load_from_checkpoint", "resume"),
    ("datasets.load", "", "load_dataset", "dataset"),
    ("datasets.load", "", "load_from_disk", "dataset"),
    ("safetensors.torch", "", "save_file", "checkpoint"),
    ("lightning.pytorch.loops.evaluation_loop", "_EvaluationLoop", "run", "eval"),
    ("lightning.pytorch.trainer.trainer", "Trainer", "save_checkpoint", "checkpoint"),
    ("pytorch_lightning.loops.evaluation_loop", "_EvaluationLoop", "run", "eval"),
    ("pytorch_lightning.trainer.trainer", "Trainer", "save_checkpoint", "checkpoint"),
)


def hooks(recorder: "Recorder") -> "dict[str, Hook]":
    """By module: what to do once it was imported."""
    found: dict[str, list[Hook]] = {}
    for module, owner, name, entered in _STAGES:
        found.setdefault(module, []).append(_stage_hook(recorder, owner, name, entered))
    found["transformers.trainer"].append(lambda module: _hf_trainer(module, recorder))
    found["transformers.trainer_callback"] = [lambda module: _hf_callbacks(module, recorder)]
    found["deepspeed.runtime.engine"] = [lambda _: recorder.hide()]
    for package in ("lightning.pytorch", "pytorch_lightning"):
        found[f"{package}.trainer.trainer"].append(lambda module: _lightning(module, recorder))
    return {module: _all_of(tuple(each)) for module, each in found.items()}


def _all_of(each: "tuple[Hook, ...]") -> "Hook":
    def run(module: "ModuleType") -> None:
        for hook in each:
            hook(module)

    return run


def _stage_hook(recorder: "Recorder", owner: str, name: str, entered: str) -> "Hook":
    def run(module: "ModuleType") -> None:
        if not owner:
            replace_everywhere((module,), name, stage(recorder, entered))
        elif hasattr(module, owner):
            replace(getattr(module, owner), name, stage(recorder, entered))

    return run


def _hf_callbacks(module: "ModuleType | Any", recorder: "Recorder") -> None:
    """The trainer's state knows the step, also after a resume."""

    def begins(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def on_train_begin(self: "Any", args: "Any", state: "Any", *rest: "Any", **kwargs: "Any") -> "Any":
            recorder.number = lambda: int(state.global_step) + 1  # counted up when the step has ended
            recorder.declare(total_steps=state.max_steps)
            return original(self, args, state, *rest, **kwargs)

        return on_train_begin

    def ends(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def on_train_end(*args: "Any", **kwargs: "Any") -> "Any":
            recorder.training_ended()
            return original(*args, **kwargs)

        return on_train_end

    handler = getattr(module, "CallbackHandler", None)
    if handler is not None:
        replace(handler, "on_train_begin", begins)
        replace(handler, "on_train_end", ends)


def _hf_trainer(module: "ModuleType | Any", recorder: "Recorder") -> None:
    def trains(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def training_step(self: "Any", model: "Any", inputs: "Any", *args: "Any", **kwargs: "Any") -> "Any":
            recorder.batch(inputs)
            return original(self, model, inputs, *args, **kwargs)

        return training_step

    if hasattr(module, "Trainer"):
        replace(module.Trainer, "training_step", trains)


def _lightning(module: "ModuleType | Any", recorder: "Recorder") -> None:
    def fits(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def fit(self: "Any", *args: "Any", **kwargs: "Any") -> "Any":
            recorder.number = lambda: int(self.global_step) + 1
            recorder.declare(total_steps=self.max_steps)
            try:
                return original(self, *args, **kwargs)
            finally:
                recorder.training_ended()

        return fit

    if hasattr(module, "Trainer"):
        replace(module.Trainer, "fit", fits)
