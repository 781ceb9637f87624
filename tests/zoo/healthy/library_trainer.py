"""A transformers Trainer at work: the loop is the library's, and the user's code stands at one line."""

import tempfile

TRUTH = {
    "state": "healthy",
    "cause": "healthy",
    "blame": ["main"],
    "needs": ["torch", "transformers"],
    "settle_seconds": 0.5,
}


def main():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Says(TrainerCallback):
        def on_step_end(self, arguments, state, control, **_):
            if state.global_step == 2:
                print("READY", flush=True)

    class Texts(torch.utils.data.Dataset):
        def __len__(self):
            return 1_000_000

        def __getitem__(self, index):
            tokens = torch.randint(0, 100, (64,))
            return {"input_ids": tokens, "labels": tokens}

    model = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=64, n_embd=64, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=4, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    Trainer(model, arguments, train_dataset=Texts(), callbacks=[Says()]).train()


main()
