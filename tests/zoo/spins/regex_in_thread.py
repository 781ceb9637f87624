"""A regular expression in a thread holds the GIL; the main thread waits for its result."""

import queue
import re
import threading

TRUTH = {"state": "hung", "cause": "native-spin", "blame": ["tokenize"]}


def tokenize(text, results):
    results.put(re.match(r"(a+)+$", text))


def main():
    results = queue.Queue()
    print("READY", flush=True)  # with the thread at work nothing can be printed: it holds the GIL
    threading.Thread(target=tokenize, args=("a" * 60 + "!", results), name="tok", daemon=True).start()
    results.get()


main()
