"""Two-sentence family stories and the relation they imply, with CLUTRR's 62 two-hop combinations."""

import random
from dataclasses import dataclass

MALE, FEMALE = 0, 1

# (male, female) words of each relation.
WORDS = {
    "parent": ("father", "mother"),
    "child": ("son", "daughter"),
    "sibling": ("brother", "sister"),
    "spouse": ("husband", "wife"),
    "grandparent": ("grandfather", "grandmother"),
    "grandchild": ("grandson", "granddaughter"),
    "pibling": ("uncle", "aunt"),
    "nibling": ("nephew", "niece"),
    "child-in-law": ("son-in-law", "daughter-in-law"),
    "parent-in-law": ("father-in-law", "mother-in-law"),
}

# a's `first` is x and x's `second` is b: what is b to a?
RULES = {
    ("sibling", "sibling"): "sibling",
    ("sibling", "child"): "nibling",
    ("sibling", "parent"): "parent",
    ("sibling", "grandparent"): "grandparent",
    ("child", "pibling"): "sibling",
    ("child", "sibling"): "child",
    ("child", "child"): "grandchild",
    ("child", "grandparent"): "parent",
    ("child", "spouse"): "child-in-law",
    ("parent", "sibling"): "pibling",
    ("parent", "child"): "sibling",
    ("parent", "parent"): "grandparent",
    ("grandchild", "sibling"): "grandchild",
    ("spouse", "child"): "child",
    ("spouse", "parent"): "parent-in-law",
    ("spouse", "grandchild"): "grandchild",
}

# CLUTRR's numbering of its targets (read from the public files).
# fmt: off
TARGETS = (
    "aunt", "son-in-law", "grandfather", "brother", "sister", "father", "mother", "grandmother", "uncle",
    "daughter-in-law", "grandson", "granddaughter", "father-in-law", "mother-in-law", "nephew", "son",
    "daughter", "niece",
)
# fmt: on

SENTENCES = (
    "{a} visited {his} {r}, {b}.",
    "{a} cooked dinner for {his} {r} {b}.",
    "{a} and {his} {r} {b} went to the market.",
    "{a} called {his} {r}, {b}, on the phone.",
    "{a} wrote a letter to {his} {r} {b}.",
    "{a} likes to play chess with {his} {r}, {b}.",
)


@dataclass(frozen=True)
class Combination:
    """One composition of two gendered relations."""

    first: str
    second: str
    target: str
    genders: tuple[int | None, int, int]  # of a, x, b; None where a may be either


@dataclass(frozen=True)
class Story:
    """a's `combination.first` is x, whose `combination.second` is b; `text` has CLUTRR's brackets round the names."""

    text: str
    names: tuple[str, str, str]
    genders: tuple[int, int, int]
    combination: Combination


def combinations() -> tuple[Combination, ...]:
    """All 62 of them, in the rules' order."""
    found = []
    for (first, second), target in RULES.items():
        for x in (MALE, FEMALE):
            for b in (MALE, FEMALE):
                if second == "spouse" and b == x:
                    continue
                a = 1 - x if first == "spouse" else None
                found.append(Combination(WORDS[first][x], WORDS[second][b], WORDS[target][b], (a, x, b)))
    return tuple(found)


def tell(rng: random.Random, combination: Combination, names: tuple[tuple[str, ...], tuple[str, ...]]) -> Story:
    """A random story of this combination; `names` are the (male, female) first names to draw from."""
    a, x, b = combination.genders
    genders = (rng.randrange(2) if a is None else a, x, b)
    chosen: list[str] = []
    for gender in genders:
        chosen.append(rng.choice([name for name in names[gender] if name not in chosen]))
    one, two = (
        rng.choice(SENTENCES).format(a=f"[{left}]", b=f"[{right}]", r=relation, his=("his", "her")[gender])
        for left, right, relation, gender in (
            (chosen[0], chosen[1], combination.first, genders[0]),
            (chosen[1], chosen[2], combination.second, genders[1]),
        )
    )
    return Story(f"{one} {two}", (chosen[0], chosen[1], chosen[2]), genders, combination)
