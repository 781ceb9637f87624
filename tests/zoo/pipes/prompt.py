"""Asks, and nobody is there to answer."""

TRUTH = {"state": "hung", "cause": "stdin-read", "blame": ["confirm"], "stdin": "pipe"}


def confirm():
    return input("Overwrite the checkpoint? [y/N] ")


def main():
    print("READY", flush=True)
    confirm()


main()
