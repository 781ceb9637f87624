"""Healthy but slow: one long Python loop that advances all the time and never prints."""


def work(position):
    return sum(range(2000)) + position


def select(total):
    for position in range(total):
        work(position)


def main():
    print("READY", flush=True)
    select(10**9)


if __name__ == "__main__":
    main()
