"""A regular expression that backtracks for ever: one C call, all CPU, and the GIL never let go."""

import re
import sys


def check(text):
    return re.match(r"(a+)+$", text)


def main():
    print("READY", flush=True)
    check("a" * 64 + "b")
    sys.exit("it ended")


if __name__ == "__main__":
    main()
