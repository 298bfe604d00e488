"""An adapter as a stock PEFT folder: it loads and evaluates without lofit."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from lofit.adapters.heads import HeadAdapter
from lofit.errors import LofitError
from lofit.export.bias_sites import edited_layers, is_quantised, layer_vectors
from lofit.export.card import write_export_card
from lofit.export.verify import Expected, Verification, expect, fixed_rows, verify
from lofit.extras import extra
from lofit.models.base import BaseModel, load
from lofit.models.layout import HeadLayout
from lofit.models.quantisation import quantization_config
from lofit.storage.files import whole_folder

with extra("export", "PEFT folders need"):
    from peft import BeftConfig, IA3Config, LoraConfig, PeftConfig, get_peft_model, set_peft_model_state_dict

Method = Literal["beft", "lora"]
Kind = Literal["beft", "ia3", "lora"]
ROUTES: dict[Kind, str] = {
    "beft": "BEFT on the output projections of the edited layers: W_o v is added to what they put out.",
    "ia3": "IA3 on the output projections of the edited layers: 1 + A multiplies what they take in.",
    "lora": "LoRA on the output projections of the edited layers: its A picks the edited heads' coordinates, its B "
    "holds the projection's columns for them times their scales (zero without scales), its bias is W_o v.",
}


@dataclass(frozen=True)
class LayerEdit:
    """What an adapter does to the input of one layer's output projection, in the n coordinates of its edited heads."""

    projection: str

    units: Tensor
    """n x (num_heads * head_dim), float32: the unit vector of each coordinate."""

    scales: Tensor
    """n numbers, zeros where the adapter has no scales."""

    offsets: Tensor
    """n numbers, zeros where the adapter has no offsets."""


def export_peft(
    base: BaseModel,
    adapter: HeadAdapter,
    out: Path,
    *,
    method: Method | None = None,
    device: torch.device | str = "auto",
    tolerance: float | None = None,
    force: bool = False,
) -> Verification:
    """Write `adapter` as a PEFT folder for `base`, once a fresh process has read it back without lofit.

    Offsets become BEFT, or a LoRA's bias where the projections are not `nn.Linear` (GPT-2); scales become IA3; both
    together a LoRA of rank heads * head_dim. One model is in memory at a time.

    Args:
        method: "lora" for a LoRA in place of BEFT or IA3, which peft has known for longer; "beft" for nothing else.
        device: where to load the base, and to read the folder back.
        tolerance: allowed difference of a logit as a share of the adapter's effect.
        force: replace what `out` holds.

    Raises:
        LofitError: the adapter is empty or does not fit the base; peft has no such method for it; the folder does not
            give the logits of the base with the adapter attached. `out` is then what it was.
    """
    if base.quantization and not base.quantization.startswith("bitsandbytes"):
        raise LofitError(
            f"quantization: got {base.quantization!r}, for which a PEFT folder cannot be read back and compared; "
            "expected null, bitsandbytes_4bit, bitsandbytes_8bit"
        )
    quantized = quantization_config(base.quantization, base.dtype)
    with whole_folder(out, force=force) as folder:
        kind, expected, placed = _load_and_write(base, adapter, folder, method, device)
        verification = verify(
            folder,
            expected,
            dtype=base.dtype,
            device=placed,
            quantised=quantized is not None,
            quantization_config=quantized.to_dict() if quantized else None,
            revision=None if Path(base.source).is_dir() else base.revision,
            tolerance=tolerance,
        )
        write_export_card(
            folder,
            base=base,
            adapter=adapter,
            route=ROUTES[kind],
            load=_loading(base),
            limits=_limits(base, adapter, kind),
            verification=verification,
        )
    return verification


def _load_and_write(
    base: BaseModel, adapter: HeadAdapter, folder: Path, method: Method | None, device: torch.device | str
) -> tuple[Kind, Expected, torch.device]:
    """Write the folder, and say what it must do; no model outlives the call."""
    model, tokenizer = load(base, device=device)
    # Training's flag on 4-bit layers chooses another kernel than whoever loads the folder will get.
    model.eval()
    local = Path(base.source).is_dir()
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    expected = expect(model, adapter, base.layout, fixed_rows(tokenizer, vocab_size))
    kind = write_peft(
        model,
        adapter,
        folder,
        layout=base.layout,
        # A relative path would be another folder from another working directory.
        source=str(Path(base.source).resolve()) if local else base.source,
        revision=None if local else base.revision,
        method=method,
    )
    return kind, expected, model.device


def write_peft(
    model: PreTrainedModel,
    adapter: HeadAdapter,
    folder: Path,
    *,
    layout: HeadLayout,
    source: str,
    revision: str | None = None,
    method: Method | None = None,
) -> Kind:
    """Write `adapter_config.json` and `adapter_model.safetensors`, unchecked, and say which kind of PEFT they are.

    **The model is changed in place**: it comes back with the PEFT adapter in it. The same call gives the same files.

    Args:
        source, revision: the base that the folder names: hub id or absolute path, and commit on the hub.

    Returns:
        "beft", "ia3" or "lora".

    Raises:
        LofitError: as `export_peft` does, but for the comparison.
    """
    edits = layer_edits(adapter, layout)
    projections = [model.get_submodule(edit.projection) for edit in edits]
    kind = _kind(model, adapter, projections[0], method)
    config = _config(kind, adapter, edits)
    vectors = {
        f"base_model.model.{edit.projection}.{name}": vector
        for edit, projection in zip(edits, projections, strict=True)
        for name, vector in _vectors(kind, adapter, edit, projection).items()
    }
    with warnings.catch_warnings():
        # That a layer without a bias cannot take one in a merge, as the card says; that GPT-2's weights are transposed.
        warnings.simplefilter("ignore")
        try:
            tuned = get_peft_model(model, config, revision=revision)
        except (TypeError, ValueError) as error:
            raise LofitError(
                f"peft cannot edit {edits[0].projection} ({str(error).strip().splitlines()[0]}); expected the head "
                "adapter itself, or a merged checkpoint"
            ) from None
        set_peft_model_state_dict(tuned, vectors)
        tuned.peft_config["default"].base_model_name_or_path = source
        # Left to choose, peft asks the hub for the base's vocabulary.
        tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return kind


def layer_edits(adapter: HeadAdapter, layout: HeadLayout) -> list[LayerEdit]:
    """The adapter's vectors by layer, first layer first.

    Raises:
        LofitError: the adapter has no heads or no vectors.
    """
    edits = []
    for layer in edited_layers(adapter):
        heads = sorted(head for at, head in adapter.heads if at == layer)
        scales, offsets = (vectors[heads].flatten() for vectors in layer_vectors(adapter, layer, layout))
        units = torch.eye(layout.num_heads * layout.head_dim).unflatten(0, (layout.num_heads, layout.head_dim))
        edits.append(LayerEdit(layout.projections[layer], units[heads].flatten(0, 1), scales, offsets))
    if not edits:
        raise LofitError(f"adapter: got no vectors ({len(adapter.heads)} heads); expected scales or offsets of a head")
    return edits


@torch.no_grad()
def weight_columns(projection: nn.Module, units: Tensor) -> Tensor:
    """The columns of W_o that these unit vectors (n x input features) pick: output features x n, float32, on the CPU.

    The module itself is run, since only it knows how to read a quantised weight, or one stored transposed.
    """
    weights = {name: weight for name, weight in projection.named_parameters() if weight.is_floating_point()}
    # Without the bias: in 16 bits, taking it off afterwards would cost each column its last digits.
    exact = {name: weight.float() * (name != "bias") for name, weight in weights.items()}
    device = next(projection.parameters()).device
    return functional_call(projection, exact, (units.to(device),)).T.cpu()


def _kind(model: PreTrainedModel, adapter: HeadAdapter, projection: nn.Module, method: Method | None) -> Kind:
    linear = isinstance(projection, nn.Linear)
    if method == "beft" and (adapter.scales is not None or not linear):
        met = "scales, of which BEFT has none" if linear else f"{type(projection).__name__}, which peft's BEFT refuses"
        raise LofitError(f"method: got 'beft' for {met}; expected lora, or none named")
    if method == "lora" or (adapter.scales is not None and adapter.offsets is not None):
        return "lora"
    if adapter.scales is None:
        return "beft" if linear else "lora"
    # peft's IA3 gives float32 on a weight of bitsandbytes, whatever it was given, which the next layer may refuse.
    return "lora" if is_quantised(projection) and model.dtype != torch.float32 else "ia3"


def _rank(adapter: HeadAdapter, edit: LayerEdit) -> int:
    """Of a LoRA: offsets alone need its bias only, and 1 is the least there is."""
    return 1 if adapter.scales is None else len(edit.units)


def _config(kind: Kind, adapter: HeadAdapter, edits: Sequence[LayerEdit]) -> PeftConfig:
    # A pattern for whole paths: a name in a list would also stand for other paths that end in it.
    paths = "|".join(re.escape(edit.projection) for edit in edits)
    if kind == "beft":
        return BeftConfig(task_type="CAUSAL_LM", target_modules=paths)
    if kind == "ia3":
        return IA3Config(task_type="CAUSAL_LM", target_modules=paths, feedforward_modules=paths)
    ranks = {edit.projection: _rank(adapter, edit) for edit in edits}
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=paths,
        # LoRA multiplies by alpha / rank: 1 in each layer.
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        lora_bias=adapter.offsets is not None,
    )


def _vectors(kind: Kind, adapter: HeadAdapter, edit: LayerEdit, projection: nn.Module) -> dict[str, Tensor]:
    """One projection's tensors, by their names in the file."""
    if kind == "ia3":
        return {"ia3_l": 1 + edit.scales[None] @ edit.units}
    columns = weight_columns(projection, edit.units)
    bias = columns @ edit.offsets
    if kind == "beft":
        return {"beft_bias": bias[None]}
    rank = _rank(adapter, edit)
    matrices = {"lora_A.weight": edit.units[:rank], "lora_B.weight": (columns * edit.scales)[:, :rank]}
    return matrices if adapter.offsets is None else {**matrices, "lora_B.bias": bias}


def _loading(base: BaseModel) -> str:
    revision = "" if Path(base.source).is_dir() else f', revision="{base.revision}"'
    return (
        "from transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER"{revision})'
    )


def _limits(base: BaseModel, adapter: HeadAdapter, kind: Kind) -> list[str]:
    limits = [
        f"It is bound to {base.source} at {base.revision}: it was computed from those weights, and no library checks "
        "that it meets them. The head adapter that it was made from is the source of truth."
    ]
    if Path(base.source).is_dir():
        limits.append(
            "It names the base's folder on the machine where it was written; elsewhere, load the base and then "
            '`peft.PeftModel.from_pretrained(base, "THIS_FOLDER")`.'
        )
    else:
        limits.append("transformers takes the base's newest revision unless it is given one, as above.")
    if base.quantization:
        limits.append(f"It was computed from weights quantised with {base.quantization}: load the base like that.")
    older = {
        "beft": "BEFT came with it; `lofit export --to peft-lora` writes what older ones read",
        "ia3": "older ones read it by `peft.PeftModel.from_pretrained`",
        "lora": "older ones, from 0.14 on, read it by `peft.PeftModel.from_pretrained`",
    }
    limits.append(f"It needs peft 0.20 or newer: {older[kind]}.")
    if adapter.offsets is not None:
        limits.append("peft merges it only into output projections that have a bias; else use `lofit export --to hf`.")
        limits.append("vLLM 0.33 has no place for it, as read in its source: it takes LoRA without a bias only.")
    return limits
