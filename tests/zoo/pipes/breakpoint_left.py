"""A breakpoint() that was left in the code waits for a command."""

TRUTH = {"state": "hung", "cause": "stdin-read", "blame": ["train_step"], "stdin": "pipe"}


def train_step(step):
    loss = 1.0 / (step + 1)
    if loss < 0.2:
        print("READY", flush=True)
        breakpoint()  # noqa: T100 - what this program is about
    return loss


def main():
    for step in range(100):
        train_step(step)


main()
