"""Collectors: from a process id to a `Case`; one file per source, put together in `harness.collect.case`."""
