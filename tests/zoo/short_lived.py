"""Many threads; with an argument, ends by itself after so many seconds."""

import os
import sys
import threading


def linger():
    threading.Event().wait()


def main():
    for _ in range(8):
        threading.Thread(target=linger, daemon=True).start()
    print("READY", flush=True)
    if len(sys.argv) > 1:
        threading.Event().wait(float(sys.argv[1]))
        os._exit(0)
    threading.Event().wait()


if __name__ == "__main__":
    main()
