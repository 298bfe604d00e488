"""A few preference pairs, and all the ways to train on them."""

from lofit import Record
from lofit.tasks.record import Objective

PAIRS = [
    ("Q: Can pigs fly? A:", " No, pigs cannot fly", " Yes"),
    ("Q: Where did the cat sit? A:", " on the mat", " in the cat, on the dog"),
    ("Q: Who? A:", " Roy", " Anna and the dog"),
    ("Answer", ": her brother", " mat"),
    ("Q: Can pigs fly, and can the cat? A:", " No", " Yes, on pigs"),
]
RECORDS = [Record(str(number), *pair) for number, pair in enumerate(PAIRS)]
OBJECTIVES = {
    "cross-entropy": Objective("cross_entropy"),
    "dpo": Objective("dpo"),
    "initial": Objective("dpo", "initial"),
}
