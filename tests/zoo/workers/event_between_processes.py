"""A worker waits for an event between processes, which its parent sets after it has joined it."""

import multiprocessing

TRUTH = {"state": "hung", "cause": "event-wait", "blame": ["roll_out"]}


def roll_out(weights_came):
    print("READY", flush=True)
    weights_came.wait()


def main():
    context = multiprocessing.get_context("fork")
    weights_came = context.Event()
    actor = context.Process(target=roll_out, args=(weights_came,), name="actor")
    actor.start()
    actor.join()
    weights_came.set()


main()
