"""Which PEFT configs can be trained here, and why the others cannot; what is wrong with one, in words."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

from lofit.errors import LofitError
from lofit.extras import extra

if TYPE_CHECKING:
    from peft import PeftConfig

VIRTUAL_TOKENS = "it puts virtual tokens before the prompt, so that positions and shared prefixes would be others"
STEPWISE = "it has to be called after each step of training"
REWRITES = "it rewrites the weights of the base model, which scores and references are compared with"

REFUSED_TYPES = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"), VIRTUAL_TOKENS
    ),
    "ADAPTION_PROMPT": "it replaces whole attention modules",
    "ADALORA": STEPWISE,
    "XLORA": "it mixes adapters that have been trained before",
    "POLY": "it has to be told the task of each row",
    "OSF": REWRITES,
    **dict.fromkeys(("FROD", "LILY", "RANDLORA", "SHIRA"), "its file holds more than the tensors of its own modules"),
    "SHADOW": "it runs a second model beside the first, with a loss of its own",
}
"""The types of PEFT that have no row here, and why."""

REFUSED_KEYS = {
    **dict.fromkeys(("loftq_config", "corda_config", "eva_config", "lora_ga_config", "kasa_config"), REWRITES),
    "bias": "it would train biases of the base model",
    "modules_to_save": "it would train copies of whole modules of the base model",
    "trainable_token_indices": "it would train rows of the base model's embeddings",
    "layer_replication": "it makes a model of more layers",
    "target_parameters": "it changes the classes of the base model's modules",
    "alora_invocation_tokens": "it has to be told where each row begins to be edited",
    "arrow_config": "it mixes adapters that have been trained before",
    "monteclora_config": "it needs a loss of its own",
    "velora_config": "it changes the gradients of the base model",
    "megatron_config": "it is for models of Megatron",
    "runtime_config": "it is no part of the adapter",
    "use_asa": STEPWISE,
    "sample_at_inference": "scores would be random",
    "runtime_offload_base_weight": "it moves the weights of the base model",
}
"""Keys that have to keep their default, and why."""

SET_HERE = {
    "task_type": "it is always CAUSAL_LM",
    "inference_mode": "training decides it",
    "base_model_name_or_path": "the folder names the base model by itself",
    "revision": "the folder names the base model by itself",
    "auto_mapping": "the base model decides it",
    "peft_version": "the installed one is used",
}
"""Keys of every config that nobody can set, and why."""

INITS = (True, False, "gaussian", "orthogonal")
"""The values of LoRA's init_lora_weights that leave the base model alone."""


def peft_config(values: Mapping[str, Any]) -> "PeftConfig":
    """The PEFT config of a plain dict: its `peft_type` and the keys of that type.

    PEFT itself drops unknown keys with no more than a warning.

    Raises:
        LofitError: the type or a key is unknown, has no row here, or PEFT refuses the values; or it is not installed.
    """
    with extra("export", "adapters of PEFT need"):
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value: page for kind, page in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    name = values.get("peft_type")
    usable = sorted(kinds.keys() - REFUSED_TYPES.keys())
    if reason := REFUSED_TYPES.get(str(name)):
        raise LofitError(f"config.peft_type: got {name!r} ({reason}); expected {', '.join(usable)}")
    if not isinstance(name, str) or name not in kinds:
        raise LofitError(f"config.peft_type: got {name!r}; expected {', '.join(usable)}")
    kind = kinds[name]
    known = {field.name: field for field in fields(kind)}
    given = {key: value for key, value in values.items() if key != "peft_type"}
    for key, value in given.items():
        if key in SET_HERE:
            raise LofitError(f"config.{key}: got {value!r}; expected no such key ({SET_HERE[key]})")
        if key not in known:
            keys = sorted(known.keys() - {*SET_HERE, *REFUSED_KEYS, "peft_type"})
            raise LofitError(f"config.{key}: unknown key of {name}; expected {', '.join(map(str, keys))}")
        if key in REFUSED_KEYS and value != (default := _default(known[key])):
            raise LofitError(f"config.{key}: got {value!r} ({REFUSED_KEYS[key]}); expected {default!r}")
    init = given.get("init_lora_weights", True)
    if not any(init is known or init == known for known in INITS):
        expected = ", ".join(map(repr, INITS))
        raise LofitError(f"config.init_lora_weights: got {init!r} ({REWRITES}); expected {expected}")
    try:
        return kind(**given, task_type="CAUSAL_LM")
    except (TypeError, ValueError, ImportError) as error:
        raise LofitError(f"config: got {dict(values)!r}; expected what peft accepts ({first_line(error)})") from None


def plain(config: "PeftConfig") -> dict[str, Any]:
    """A config as JSON can hold it, without the keys that are set here; sets, whose order is chance, sorted.

    `peft_config` makes it again.
    """
    values = {key: _plain(value) for key, value in config.to_dict().items() if key not in SET_HERE}
    # What cannot be set would be refused where a newer PEFT has another default for it.
    return {key: values[key] for key in sorted(values.keys() - REFUSED_KEYS.keys())}


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(some) for key, some in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(some) for some in value]
    return value
