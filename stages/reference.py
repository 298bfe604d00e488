"""Stage reference: DPO's reference under the untouched base model, once for all seeds, rows and both steps."""

from lofit.models import base as base_models
from lofit.models.runtime import be_deterministic
from lofit.storage.files import read_json
from lofit.tasks.record import TUNING_SPLITS, Split, read_objective, read_records
from lofit.training.reference import Pairs, pair_logprobs, write_references
from stages import paths
from stages.command import Task, main
from stages.runtime import read_runtime


def reference(task: Task) -> None:
    data = paths.data_folder(task)
    objective = read_objective(data)
    pairs: dict[Split, Pairs] = {}
    if objective.shares_reference:
        be_deterministic()
        runtime = read_runtime()
        base = base_models.BaseModel.from_json(read_json(paths.BASE_MODEL))
        model, tokenizer = base_models.load(base, device=runtime.device, device_map=runtime.device_map)
        pairs = {
            split: pair_logprobs(model, tokenizer, read_records(data, split), objective) for split in TUNING_SPLITS
        }
    write_references(paths.reference_file(task), pairs)


if __name__ == "__main__":
    main(reference)
