"""torchrun for two nodes, of which one never starts: it waits at the rendezvous, before any rank."""

TRUTH = {
    "state": "hung",
    "cause": "rendezvous-wait",
    "facts": ["2"],
    "needs": ["torch"],
    "torchrun": [
        "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=zoo",
        "--rdzv-endpoint=127.0.0.1:{port}",
    ],
    "ready": "listening",
    "settle_seconds": 1.0,
}  # fmt: skip

print("never reached")
