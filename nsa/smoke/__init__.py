"""Trying each part of a training by itself, with the run's own configuration.

`python -m nsa.smoke STAGE CONFIG`; one file per stage. A stage prints what it measures, for the plan's
expectations to judge; what it finds wrong is one line: what, the value seen, what to do. The plans are in
configs/smoke/.
"""
