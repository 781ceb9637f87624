"""A tokenizer is trained on an iterator, which Rust runs in a thread of its own; its producer has stopped."""

import queue
import threading

from tokenizers import Tokenizer, models, trainers

TRUTH = {
    "state": "hung",
    "cause": "queue-wait",
    "blame": ["lines"],
    "needs": ["tokenizers"],
    "settle_seconds": 0.5,
}


def read(arrived):
    for number in range(50):
        arrived.put(f"line {number}")


def lines(arrived):
    while (line := arrived.get()) is not None:
        yield line


def main():
    arrived = queue.Queue()
    threading.Thread(target=read, args=(arrived,)).start()
    tokenizer = Tokenizer(models.BPE())
    print("READY", flush=True)
    tokenizer.train_from_iterator(lines(arrived), trainers.BpeTrainer(show_progress=False))


main()
