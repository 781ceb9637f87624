"""Sleeps, with a secret in a local variable."""

import time


def pause(seconds):
    password = "hunter2hunter2"
    shape = (4, 1024)
    print("READY", flush=True)
    time.sleep(seconds)
    return password, shape


def main():
    pause(3600)


if __name__ == "__main__":
    main()
