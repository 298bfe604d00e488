"""How many heads a share of a model's heads is."""

from fractions import Fraction


def number_of_heads(k: int | str, heads: int) -> int:
    """K as a number: `3%` of `heads` is rounded to the nearest number, at least 1; a half goes to the even one."""
    if isinstance(k, int):
        return k
    return max(1, round(Fraction(k.removesuffix("%")) / 100 * heads))
