"""A trainer calls its callbacks after each step, and one of them rests for a while."""

import time

TRUTH = {"state": ["healthy", "slow"], "cause": ["healthy", "slow-progress"]}


class Callback:
    def on_step_end(self, trainer):
        pass


class Cooling(Callback):
    def on_step_end(self, trainer):
        time.sleep(2.5)


class Trainer:
    def __init__(self, callbacks):
        self.callbacks = callbacks
        self.step = 0

    def call(self, name):
        for callback in self.callbacks:
            getattr(callback, name)(self)

    def fit(self):
        while True:
            self.step += 1
            self.call("on_step_end")


print("READY", flush=True)
Trainer([Callback(), Cooling()]).fit()
