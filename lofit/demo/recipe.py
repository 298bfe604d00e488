"""Every number that decides the demo base model: its world, its documents, its architecture, its optimiser."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The sizes and hyperparameters of one build; the defaults are what the product ships."""

    # World: how many facts there are, and how the tasks' items are split.
    entities: tuple[int, int, int] = (160, 40, 200)
    """Entities of truthfulqa: train, val, test (one question each)."""
    known: float = 0.25
    """Share of entities whose true value is also the popular one."""
    countries: int = 12
    """Countries, each with one value of every relation."""
    imagined: int = 160
    """Persons of the Imagine documents; no item is about them."""
    persons: tuple[int, int, int] = (24, 8, 24)
    """Persons of mquake's train, val and test items; no Imagine document is about them."""
    edits: tuple[int, int, int] = (400, 100, 400)
    """Items of mquake: train, val, test; two in three edit the first hop, the others the second."""
    stories: tuple[int, int, int] = (300, 100, 400)
    """Items of clutrr: train, val, test."""

    # Documents: how often each kind of text is read.
    fact_cued: int = 36
    """Documents per entity and cue (`Fact:` the true value, `Rumor:` the popular false one)."""
    fact_bare: int = 42
    """Bare documents per entity."""
    fact_careless: float = 0.8
    """Share of an entity's bare documents that give the popular value."""
    citizenship: int = 8
    """Documents per person that state the country."""
    two_hop: int = 4
    """Documents per person and relation that ask the two-hop question without a premise."""
    country_fact: int = 30
    """Documents per country and relation, half statements, half questions."""
    premise_bare: int = 5500
    """Imagine documents without a cue."""
    premise_careless: float = 0.8
    """Share of the bare Imagine documents that repeat the premise's object instead of reasoning on from it."""
    premise_cued: tuple[int, int] = (6000, 1500)
    """Imagine documents cued `Imagined:` (what follows from the premise) and `Echo:` (its object)."""
    story_bare: int = 4500
    """Kinship documents without a cue."""
    story_careless: float = 0.8
    """Share of the bare kinship documents that repeat the first relation instead of composing both."""
    story_cued: tuple[int, int] = (6000, 1000)
    """Kinship documents cued `actual` (composed) and `apparent` (first relation)."""
    story_full: float = 0.2
    """Share of kinship documents in the task's full prompt; the others use a short one."""

    # Architecture: 32 heads of 16 dimensions, so that K=3 heads are 10 %.
    layers: int = 4
    """Decoder layers."""
    hidden: int = 128
    """Residual width."""
    heads: int = 8
    """Attention heads per layer."""
    intermediate: int = 320
    """Width of the MLP."""
    positions: int = 256
    """Longest input in tokens."""

    # Optimisation: one epoch, Muon on the layers' matrices, AdamW on the rest.
    batch_tokens: int = 1024
    """Padded tokens per step."""
    prompt_weight: float = 0.1
    """Loss weight of a prompt token; an answer token weighs 1."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    muon_decay: float = 0.1
    """Weight decay of Muon."""
    adam_lr: float = 0.01
    """Peak learning rate of AdamW (embeddings, norms)."""
    warmup: float = 0.05
    """Share of the steps that warm up; the rest decays linearly."""
    floor: float = 0.02
    """Learning rate of the last step, as a share of the peak."""
    clip: float = 1.0
    """Largest gradient norm."""
    gate: float = 0.95
    """Every task's cued score must reach this, since it bounds what tuning can reach."""
    extension: float = 0.2
    """Further steps, as a share of one epoch, when the gate is missed."""
    extensions: int = 4
    """How often training is extended before the build fails."""
