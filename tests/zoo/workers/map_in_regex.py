"""datasets maps with two processes, and one of them is lost in a regular expression."""

import re

TRUTH = {
    "state": "hung",
    "cause": "native-spin",
    "blame": ["clean"],
    "needs": ["datasets"],
    "settle_seconds": 3.0,
}


def clean(row):
    return {"clean": bool(re.match(r"(\w+\s?)+$", row["text"]))}


if __name__ == "__main__":
    import datasets

    rows = ["some words"] * 10 + ["word" * 20 + "!"] + ["more"] * 10
    rows = datasets.Dataset.from_dict({"text": rows})
    datasets.disable_progress_bars()
    print("READY", flush=True)
    rows.map(clean, num_proc=2)
