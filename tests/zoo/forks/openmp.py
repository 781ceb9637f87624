"""OpenMP's threads do not live on in a forked child."""

import multiprocessing

TRUTH = {
    "state": "hung",
    "cause": "fork-deadlock",
    "blame": ["work"],
    "needs": ["torch"],
    "env": {"OMP_NUM_THREADS": "2"},
}


def work():
    import torch

    torch.ones(2000, 2000).mul(2.0).sum()


def main():
    import torch

    torch.set_num_threads(2)
    torch.ones(2000, 2000).mul(2.0).sum()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    print("READY", flush=True)
    process.join()


main()
