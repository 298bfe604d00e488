"""Stage reference: DPO's reference under the untouched base model, once for all seeds, methods and both steps."""

from lofit.reference import Pairs, pair_logprobs, write_references
from lofit.tasks.record import TUNING_SPLITS, Split, read_judgement, read_records
from stages import workspace


def reference(task: workspace.Task) -> None:
    data = workspace.data_folder(task)
    judgement = read_judgement(data)
    pairs: dict[Split, Pairs] = {}
    if judgement.shares_reference:
        # A task without such a reference should not wait for transformers to load.
        from lofit import models

        base = workspace.read_base_model(workspace.read_params())
        models.be_deterministic()
        model, tokenizer = models.load(base)
        pairs = {
            split: pair_logprobs(model, tokenizer, read_records(data, split), judgement) for split in TUNING_SPLITS
        }
    write_references(workspace.reference_file(task), pairs)


if __name__ == "__main__":
    workspace.main(reference)
