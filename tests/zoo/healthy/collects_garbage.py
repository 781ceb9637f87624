"""A garbage collection over very many objects, again and again."""

import gc

TRUTH = {"state": ["slow", "healthy"], "cause": ["slow-progress", "healthy"]}


def clean(epochs):
    for epoch in range(epochs):
        gc.collect()


def main():
    kept = [[] for _ in range(2_000_000)]
    print("READY", flush=True)
    clean(10**9)
    del kept


main()
