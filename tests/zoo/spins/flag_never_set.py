"""Polls a flag without a pause."""

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["wait_until_ready", "ready"]}


class Loader:
    done = False


def ready(loader):
    return loader.done


def wait_until_ready(loader):
    polls = 0
    while not ready(loader):
        polls += 1


def main():
    print("READY", flush=True)
    wait_until_ready(Loader())


main()
