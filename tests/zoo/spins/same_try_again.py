"""Reads a file that was cut short, logs the failure, and tries again at once, for ever."""

import json
import logging
import tempfile

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["read_state", "parse", "emit"]}
LOG = logging.getLogger(__name__)


class Formats(logging.Handler):
    def emit(self, record):
        self.format(record)


def parse(path):
    with open(path) as file:
        return json.load(file)


def read_state(path):
    while True:
        try:
            return parse(path)
        except ValueError:
            LOG.exception("the state is not complete")


LOG.addHandler(Formats())
LOG.propagate = False
with tempfile.NamedTemporaryFile("w", suffix=".json") as state:
    state.write('{"step": 12')
    state.flush()
    print("READY", flush=True)
    read_state(state.name)
