"""Fit LoFiT step by step on the embedded model, and say what each step found. Run it from the project's root."""

from pathlib import Path

import lofit
from lofit import demo


def main(out: Path = Path("adapters/kinship")) -> None:
    # A toy Llama and its kinship questions; the model is trained first where it is not there yet.
    model, tokenizer = demo.load()
    train, val, test = (demo.records("clutrr", split) for split in ("train", "val", "test"))

    # Step 1: a scaling vector for every head; its norm says how much the head matters for the task.
    scales = lofit.train_scales(model, tokenizer, train, epochs=5, l1=0.01)
    heads = lofit.select_heads(scales, k=3)
    print(f"the three heads of largest norm, as (layer, head): {heads}")

    # Step 2: an offset vector for each of these heads, and nothing else.
    adapter = lofit.tune_bias(model, tokenizer, train, heads, val=val, lr=0.1, epochs=10)
    print(f"trained numbers: {sum(vector.numel() for vector in adapter.parameters())}")

    print(f"untouched model: {lofit.score(model, tokenizer, test)}")
    print(f"with the adapter: {lofit.score(model, tokenizer, test, adapter=adapter)}")

    adapter.save_pretrained(out)
    again = lofit.HeadAdapter.from_pretrained(out)
    with again.attach(model):
        print(f"read back from {out}: {lofit.score(model, tokenizer, test)}")


if __name__ == "__main__":
    main()
