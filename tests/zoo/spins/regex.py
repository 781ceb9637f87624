"""A regular expression that backtracks for ever."""

import re

TRUTH = {"state": "hung", "cause": "native-spin", "blame": ["clean"]}


def clean(text):
    return re.match(r"(a+)+$", text)


def main():
    print("READY", flush=True)
    clean("a" * 60 + "!")


main()
