"""What is wrapped in torch, and when: each function here runs once, right after its module was imported.

Inside a compiled function every wrapper is the original alone: nothing of ours is traced. Not here: what the
wrappers tell is made of (`recorder`).
"""

import os
import sys

from harness.auto.wrapping import replace, replace_everywhere, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from harness.auto.imports import Hook
    from harness.auto.recorder import Recorder


def hooks(recorder: "Recorder") -> "dict[str, Hook]":
    """By module: what to do once it was imported."""
    return {
        "torch": lambda module: _torch(module, recorder),
        "torch._dynamo.callback": lambda module: _dynamo(module, recorder),
        "torch.distributed.checkpoint": lambda module: _distributed_checkpoint(module, recorder),
    }


def _torch(torch: "ModuleType | Any", recorder: "Recorder") -> None:
    compiling: Callable[[], bool] = torch.compiler.is_dynamo_compiling  # knows no `torch.jit`: quicker
    _optimizers(torch, recorder, compiling)
    _gradients(torch, recorder, compiling)
    _loaders(torch, recorder)
    replace_everywhere((torch.serialization, torch), "save", _save(recorder))
    if torch.distributed.is_available():
        mesh = sys.modules.get("torch.distributed.device_mesh", torch.distributed)  # has the name as well
        modules = (torch.distributed.distributed_c10d, torch.distributed, mesh)
        replace_everywhere(modules, "init_process_group", _joins(torch, recorder))


def _optimizers(torch: "Any", recorder: "Recorder", compiling: "Callable[[], bool]") -> None:
    def before(optimizer: "Any", args: "Any", kwargs: "Any") -> None:
        if not compiling():
            closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
            recorder.optimizer_begins(optimizer, closure=closure is not None)

    def after(optimizer: "Any", args: "Any", kwargs: "Any") -> None:  # noqa: ARG001 (torch calls it so)
        if not compiling():
            recorder.optimizer_ends(optimizer)

    def made(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def __init__(self: "Any", *args: "Any", **kwargs: "Any") -> None:  # noqa: N807 (its name)
            original(self, *args, **kwargs)
            recorder.optimizer_made(self)

        return __init__

    def zeroed(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def zero_grad(*args: "Any", **kwargs: "Any") -> "Any":
            if not compiling():
                recorder.zeroed()
            return original(*args, **kwargs)

        return zero_grad

    base: Any = sys.modules[torch.optim.Optimizer.__module__]  # torch.optim has deleted the name
    base.register_optimizer_step_pre_hook(before)
    base.register_optimizer_step_post_hook(after)
    replace(torch.optim.Optimizer, "__init__", made)
    replace(torch.optim.Optimizer, "zero_grad", zeroed)
    replace(torch.nn.Module, "zero_grad", zeroed)


def _gradients(torch: "Any", recorder: "Recorder", compiling: "Callable[[], bool]") -> None:
    def backward(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(tensors: "Any", grad_tensors: "Any" = None, *args: "Any", **kwargs: "Any") -> "Any":
            if compiling() or not recorder.backward_begins(tensors, grad_tensors):
                return original(tensors, grad_tensors, *args, **kwargs)
            well = False
            try:
                result = original(tensors, grad_tensors, *args, **kwargs)
                well = True
                return result
            finally:
                recorder.backward_ends(well=well)

        return call

    def clip(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(*args: "Any", **kwargs: "Any") -> "Any":
            norm = original(*args, **kwargs)
            if not compiling():
                recorder.clipped(norm)
            return norm

        return call

    def scale(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(self: "Any", outputs: "Any") -> "Any":
            result = original(self, outputs)
            if not compiling():
                recorder.scaled(outputs, result)
            return result

        return call

    def scaler_step(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(*args: "Any", **kwargs: "Any") -> "Any":
            before = recorder.steps_so_far()
            result = original(*args, **kwargs)
            recorder.scaler_stepped(before)
            return result

        return call

    # Tensor.backward calls it by this name; patching that one would be seen by __torch_function__.
    replace(torch.autograd, "backward", backward)
    replace_everywhere((torch.nn.utils.clip_grad, torch.nn.utils), "clip_grad_norm_", clip)
    replace(torch.amp.GradScaler, "scale", scale)
    replace(torch.amp.GradScaler, "step", scaler_step)


def _loaders(torch: "Any", recorder: "Recorder") -> None:
    def starts(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(self: "Any") -> "Any":
            scope = recorder.waits()
            try:
                return original(self)
            finally:
                recorder.waited(scope, batch=False)

        return call

    def gives(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(self: "Any") -> "Any":
            scope = recorder.waits()
            batch = False
            try:
                found = original(self)
                batch = True
                return found
            finally:
                recorder.waited(scope, batch=batch)

        return call

    replace(torch.utils.data.DataLoader, "__iter__", starts)
    replace(torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", gives)  # noqa: SLF001 (the base of all)


def _save(recorder: "Recorder") -> "Callable[[Callable[..., Any]], Callable[..., Any]]":
    """`torch.save` to a path is a checkpoint; into memory it is a message."""
    as_stage = stage(recorder, "checkpoint")

    def make(original: "Callable[..., Any]") -> "Callable[..., Any]":
        staged = as_stage(original)

        def save(obj: "Any", f: "Any", *args: "Any", **kwargs: "Any") -> "Any":
            to_file = isinstance(f, str | os.PathLike)
            return (staged if to_file else original)(obj, f, *args, **kwargs)

        return save

    return make


def _joins(torch: "Any", recorder: "Recorder") -> "Callable[[Callable[..., Any]], Callable[..., Any]]":
    def make(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def init_process_group(*args: "Any", **kwargs: "Any") -> "Any":
            recorder.wake()
            scope = recorder.enter("distributed")
            try:
                result = original(*args, **kwargs)
            finally:
                recorder.leave(scope)
            if torch.distributed.is_initialized():
                recorder.claim(
                    rank=torch.distributed.get_rank(), world_size=torch.distributed.get_world_size()
                )
            return result

        return init_process_group

    return make


def _dynamo(callback: "ModuleType | Any", recorder: "Recorder") -> None:
    """Compilations, nested ones counted once by torch; by way of the class, for handlers can be cleared."""
    current: list[Any] = []

    def starts(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(*args: "Any", **kwargs: "Any") -> "Any":
            current.append(recorder.enter("compile"))
            return original(*args, **kwargs)

        return call

    def ends(original: "Callable[..., Any]") -> "Callable[..., Any]":
        def call(*args: "Any", **kwargs: "Any") -> "Any":
            try:
                return original(*args, **kwargs)
            finally:
                if current:
                    recorder.leave(current.pop())

        return call

    handler = getattr(callback, "CompilationCallbackHandler", None)
    if handler is not None:
        replace(handler, "run_start_callbacks", starts)
        replace(handler, "run_end_callbacks", ends)


def _distributed_checkpoint(package: "ModuleType | Any", recorder: "Recorder") -> None:
    saver = sys.modules.get("torch.distributed.checkpoint.state_dict_saver", package)
    for name in ("save", "save_state_dict"):
        replace_everywhere((saver, package), name, stage(recorder, "checkpoint"))
