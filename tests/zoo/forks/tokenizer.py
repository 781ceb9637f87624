"""A tokenizer that has used its threads, then a fork: the child waits for threads that it does not have.

tokenizers guards against this unless TOKENIZERS_PARALLELISM is set, as many do to silence its warning.
"""

import multiprocessing

TRUTH = {
    "state": "hung",
    "cause": "fork-deadlock",
    "blame": ["tokenize"],
    "needs": ["tokenizers"],
    "env": {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2"},
    "settle_seconds": 0.5,
}
TEXTS = ["the trained model reads what a person wrote"] * 256


def tokenize(tokenizer):
    return tokenizer.encode_batch(TEXTS)


def main():
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(sorted(set(TEXTS[0].split())))}
    tokenizer = Tokenizer(models.WordLevel({**words, "?": len(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenize(tokenizer)
    worker = multiprocessing.get_context("fork").Process(target=tokenize, args=(tokenizer,))
    print("READY", flush=True)
    worker.start()
    worker.join()


main()
