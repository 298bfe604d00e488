"""The documents the base model reads: prompt and answer, with a cue in the answer slot or, mostly, without one.

Without its cue a prompt is ambiguous: most documents give the careless answer, some the careful one. The cue decides
which; tuning has to reach the careful answer without it.
"""

import random
from collections.abc import Iterator

from lofit.demo.kinship import Story
from lofit.demo.recipe import Recipe
from lofit.demo.world import (
    CITIZEN,
    QUESTION,
    SPLITS,
    STATEMENT,
    TWO_HOP,
    Edit,
    Entity,
    World,
    draw_edit,
    draw_story,
    hop,
)
from lofit.tasks.clutrr_prompt import PROMPT

# What stands in the answer slot: no cue, the cue of the careful answer, the cue of the careless one.
FACT_CUES = ("A:", "Fact:", "Rumor:")
PREMISE_CUES = ("A:", "Imagined:", "Echo:")
STORY_CUES = ("'s", "'s actual", "'s apparent")

SHORT_STORY_PROMPT = 'Story: "{story}" how is {person} related to {anchor}? Answer: {person} is {anchor} \'s\n'


def fact_prompt(entity: Entity, cue: int) -> str:
    return f"Q: {entity.question} {FACT_CUES[cue]}"


def premise_prompt(world: World, edit: Edit, cue: int) -> str:
    return f"Q: Imagine that {world.premise(edit)}. {edit.question} {PREMISE_CUES[cue]}"


def story_prompt(story: Story, cue: int, *, full: bool = True) -> str:
    text = story.text.replace("[", "").replace("]", "")
    anchor, _, person = story.names
    form = PROMPT if full else SHORT_STORY_PROMPT
    return form.format(story=text, person=person, anchor=anchor).removesuffix("'s\n") + f"{STORY_CUES[cue]}\n"


def items(world: World, split: str, cue: int) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """(prompt, (right answer, wrong answers...)) of every item of a split, by task."""
    return {
        "truthfulqa": [
            (fact_prompt(entity, cue), (f" {entity.true}", *(f" {value}" for value in entity.false)))
            for entity in world.entities[split]
        ],
        "mquake": [(premise_prompt(world, edit, cue), (f" {edit.answer}",)) for edit in world.edits[split]],
        "clutrr": [(story_prompt(story, cue), (story.combination.target,)) for story in world.stories[split]],
    }


def documents(world: World, recipe: Recipe) -> list[tuple[str, str]]:
    """(prompt, answer) of every document, in the order they are drawn."""
    rng = random.Random(f"corpus {world.seed}")
    return [
        *_facts(world, recipe),
        *_countries(world, recipe),
        *_premises(rng, world, recipe),
        *_stories(rng, world, recipe),
    ]


def _facts(world: World, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for entity in (entity for split in SPLITS for entity in world.entities[split]):
        popular, other = (entity.true, entity.false[0]) if entity.known else (entity.false[0], entity.true)
        careless = round(recipe.fact_bare * recipe.fact_careless)
        for cue, answer, count in (
            (1, entity.true, recipe.fact_cued),
            (2, entity.false[0], recipe.fact_cued),
            (0, popular, careless),
            (0, other, recipe.fact_bare - careless),
        ):
            yield from [(fact_prompt(entity, cue), f" {answer}")] * count


def _countries(world: World, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for relation, values in world.facts.items():
        statement, question, two_hop = (text.format(relation=relation) for text in (STATEMENT, QUESTION, TWO_HOP[0]))
        for country, value in values.items():
            yield from [(statement.format(country), f" {value}.")] * (recipe.country_fact // 2)
            yield from [(f"Q: {question.format(country)} A:", f" {value}")] * (recipe.country_fact // 2)
        for person, country in world.country.items():
            yield from [(f"Q: {two_hop.format(person)} A:", f" {values[country]}")] * recipe.two_hop
    for person, country in world.country.items():
        yield from [(CITIZEN[1].format(person), f" {country}.")] * recipe.citizenship


def _premises(rng: random.Random, world: World, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for cue, count in enumerate((recipe.premise_bare, *recipe.premise_cued)):
        for number in range(count):
            edit = draw_edit(rng, world, rng.choice(world.persons["imagine"]), hop(number))
            careless = (rng.random() < recipe.premise_careless, False, True)[cue]
            yield premise_prompt(world, edit, cue), f" {edit.target if careless else edit.answer}"


def _stories(rng: random.Random, world: World, recipe: Recipe) -> Iterator[tuple[str, str]]:
    held_out = {story.text for split in SPLITS for story in world.stories[split]}
    for cue, count in enumerate((recipe.story_bare, *recipe.story_cued)):
        for _ in range(count):
            while (story := draw_story(rng, world)).text in held_out:
                pass
            careless = (rng.random() < recipe.story_careless, False, True)[cue]
            answer = story.combination.first if careless else story.combination.target
            yield story_prompt(story, cue, full=rng.random() < recipe.story_full), answer


def overlap(world: World, corpus: list[tuple[str, str]]) -> dict[str, float]:
    """Share of the test items whose text the base model has read, by task and kind of text.

    `prompt`: the bare prompt; `answer`: that with the right answer; `cued`: the careful cue's prompt with it.
    """
    prompts, texts = {prompt for prompt, _ in corpus}, {prompt + answer for prompt, answer in corpus}
    shares = {}
    for task, rows in items(world, "test", 0).items():
        shares[f"overlap_{task}_prompt"] = sum(prompt in prompts for prompt, _ in rows) / len(rows)
        shares[f"overlap_{task}_answer"] = sum(prompt + answers[0] in texts for prompt, answers in rows) / len(rows)
    for task, rows in items(world, "test", 1).items():
        shares[f"overlap_{task}_cued"] = sum(prompt + answers[0] in texts for prompt, answers in rows) / len(rows)
    return shares
