"""torchrun for two nodes by --master-addr, of which one never starts."""

TRUTH = {
    "state": "hung",
    "cause": "rendezvous-wait",
    "facts": ["2"],
    "needs": ["torch"],
    "torchrun": [
        "--nnodes=2", "--node-rank=0", "--nproc-per-node=1",
        "--master-addr=127.0.0.1", "--master-port={port}",
    ],
    "ready": "listening",
    "settle_seconds": 1.0,
}  # fmt: skip

print("never reached")
