"""What batches give of last tokens, in every family of decoders, against one row at a time."""

import numpy as np
import pytest
import torch

from lofit import head_layout
from lofit.models.last_tokens import read_last_tokens
from lofit.models.tokens import Encoded
from tests.families import FAMILIES, HIDDEN, VOCABULARY, build

LENGTHS = (5, 9, 2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_what_a_row_alone_does(name):
    model = build(name, torch.float32)
    layout = head_layout(model)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    heads = np.empty((len(rows), *layout.grid, layout.head_dim), np.float16)
    blocks = np.empty((len(rows), layout.num_layers, HIDDEN), np.float16)
    read_last_tokens(model, layout, [Encoded(tuple(row), 1) for row in rows], heads, blocks, pad_id=0, batch_size=3)
    for number, row in enumerate(rows):
        z, hidden = by_hand(model, layout, row)
        np.testing.assert_allclose(heads[number].reshape(z.shape), z, rtol=4e-3, atol=4e-3)
        np.testing.assert_allclose(blocks[number], hidden, rtol=4e-3, atol=4e-3 * abs(hidden).max())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def by_hand(model, layout, row):
    """One row without padding or cache: the last position of what each module gets or gives."""
    z, hidden, handles = {}, {}, []
    for layer, (projection, block) in enumerate(zip(layout.projections, layout.blocks, strict=True)):

        def before(_, args, layer=layer):
            z[layer] = args[0].flatten(0, -2)[-1]

        def after(_, __, output, layer=layer):
            hidden[layer] = (output if torch.is_tensor(output) else output[0])[0, -1]

        handles.append(model.get_submodule(projection).register_forward_pre_hook(before))
        handles.append(model.get_submodule(block).register_forward_hook(after))
    with torch.no_grad():
        model(torch.tensor([row]), use_cache=False)
    for handle in handles:
        handle.remove()
    return tuple(np.stack([found[layer].numpy() for layer in sorted(found)]) for found in (z, hidden))
