"""Burns a CPU in a loop of one line."""

TRUTH = {"state": "hung", "cause": "python-spin", "blame": ["wait"]}
STATE = {"ready": False}


def wait():
    while not STATE["ready"]:
        pass


print("READY", flush=True)
wait()
