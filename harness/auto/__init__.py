"""Instrumentation without a change of code: what `harness run` puts into a trainer that never heard of us.

How it gets in: `harness run` prepends `site/` to PYTHONPATH; Python's `site` imports the `sitecustomize` in
it, which arms a meta-path finder (`arming`). Nothing more happens until torch or a framework is imported.
Then the modules here are loaded from the harness's own folder under names that collide with nothing, the
rank's record is claimed (`session`), and functions of torch and of frameworks are wrapped once they have been
imported (`imports`, `torch_hooks`, `frameworks`). All that a hook sees goes to one `Recorder`, which tells
`harness.emit`.

What is recorded. A *step* is a step of the leading optimizer: of the first one that stepped, for as long as
it lives and goes on stepping. Its *loss* is the sum of the scalars on which `backward` was called since the
step before: the objective that this step followed. Frameworks divide by the accumulation steps themselves,
so that it is the mean; where nobody divides, the optimizer too follows the sum. Its *learning rates* are
those of its parameter groups as the step begins; its *gradient norm* is what `clip_grad_norm_` returned. What
cannot be known without waiting for a device or for another rank is absent. Nothing draws from a random
generator, and no hook changes an argument or a result.

Knowingly absent: steps of optimizers that are no `torch.optim.Optimizer`, inside a compiled function, inside
a captured CUDA graph, or under DeepSpeed; losses of `autograd.grad`; losses and norms that are DTensors;
tokens outside frameworks that say what a batch is; evaluation loops written by hand (their batches count as
movement). Until a step is seen, a process is judged by its log and activity, as if it had no record.

Standard library only, and what `harness.emit` stands on: torch is met in `sys.modules`.
"""
