"""Logits of a written model, as somebody gets them who has never heard of lofit. A script, never imported.

    python fresh.py FOLDER INPUTS OUTPUTS SETTINGS

INPUTS holds rows of token ids (row_0, row_1, ...), OUTPUTS receives the logits under the same names. SETTINGS is JSON:
dtype, device, and quantization_config (or null).
"""

import json
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar


def main(folder: str, inputs: str, outputs: str, settings: str) -> None:
    disable_progress_bar()
    wanted = json.loads(settings)
    quantization = wanted["quantization_config"]
    # A None would take the place of what the checkpoint says of itself.
    options = {"quantization_config": BitsAndBytesConfig.from_dict(quantization)} if quantization else {}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, wanted["dtype"]),
        device_map={"": wanted["device"]},
        **options,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, loading = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            sys.exit(f"{kind.replace('_', ' ')}: {', '.join(sorted(map(str, loading[kind]))[:3])}")
    model.eval()
    with torch.no_grad():
        logits = {
            name: model(ids[None].to(model.device)).logits[0].float().cpu().contiguous()
            for name, ids in load_file(inputs).items()
        }
    save_file(logits, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
