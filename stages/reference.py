"""Stage reference: DPO's reference under the untouched base model, once for all seeds, rows and both steps."""

from lofit.tasks.record import TUNING_SPLITS, Split, read_objective, read_records
from lofit.training.reference import Pairs, pair_logprobs, write_references
from stages import paths
from stages.command import Task, main


def reference(task: Task) -> None:
    data = paths.data_folder(task)
    objective = read_objective(data)
    pairs: dict[Split, Pairs] = {}
    if objective.shares_reference:
        # Most tasks have no pairs, and would wait seconds for these imports.
        from lofit.models.runtime import be_deterministic
        from stages.model import load_base, read_base

        be_deterministic()
        model, tokenizer = load_base(read_base())
        pairs = {
            split: pair_logprobs(model, tokenizer, read_records(data, split), objective) for split in TUNING_SPLITS
        }
    write_references(paths.reference_file(task), pairs)


if __name__ == "__main__":
    main(reference)
