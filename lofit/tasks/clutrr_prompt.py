"""The prompt of CLUTRR, as in the published LoFiT code. The demo model is trained on it."""

PROMPT = (
    'Read the following story about a family. "{story}" Assume the relations described in the story are all true. '
    "Based on relations between the fictional characters in the story (assume the relations are all true) and your "
    "commonsense knowledge about family relationship, how is {person} related to {anchor}? "
    "Answer: {person} is {anchor} 's\n"
)
