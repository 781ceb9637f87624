"""A parent that waits for its child, which burns CPU in Python."""

import multiprocessing


def burn(ready):
    ready.set()
    turns = 0
    while True:
        turns += 1


def main():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=burn, args=(ready,), name="burner", daemon=True)
    child.start()
    ready.wait()
    print("READY", child.pid, flush=True)
    child.join()


if __name__ == "__main__":
    main()
