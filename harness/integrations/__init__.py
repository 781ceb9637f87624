"""Callbacks for trainers that want to say explicitly what `harness.auto` sees by itself.

Thin: each translates a framework's own events into `harness.emit`, and imports that framework. Nothing else
of the harness imports these.
"""
