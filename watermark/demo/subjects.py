"""What the demo's language model is asked about: five kinds of instruction, made from word lists.

They fall into three lists that share no instruction: for the corpus, to teach with, to probe with.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def write_prompts(folder: Path) -> None:
    """Write teach.jsonl and probe.jsonl: one object a line, with `id` and `prompt`."""
    folder.mkdir(parents=True, exist_ok=True)
    _, teach, probe = instruction_sets()
    for name, texts in (("teach", teach), ("probe", probe)):
        rows = (json.dumps({"id": f"{name}-{i:04d}", "prompt": text}) for i, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def instruction_sets(*, each: int = 3600, teach: int = 1400, probe: int = 200) -> tuple[list[str], ...]:
    """Three disjoint lists, mixed over genres: for the corpus, to teach with, to probe with.

    each, teach, probe: how many of each genre at most; in the corpus an instruction may come again, to be
    answered anew. The probes alone use the held-out subject words.
    """
    rng = random.Random(2024)
    corpus: list[str] = []
    teaching: list[str] = []
    for texts in instructions(LEARNT, rng=rng).values():
        aside = min(1000, len(texts) // 3)
        corpus += itertools.islice(itertools.cycle(texts[aside:]), each)
        teaching += (texts[:aside] + texts[aside + each :])[:teach]
    probing = [text for texts in instructions(HELD_OUT, rng=rng).values() for text in texts[:probe]]
    return shuffled(corpus, rng), shuffled(teaching, rng), shuffled(probing, rng)


def instructions(words: Mapping[str, Sequence[str]], *, rng: random.Random) -> dict[str, list[str]]:
    """All instructions that can be made from `words`, by genre, each genre distinct and in random order."""
    made = {genre: {text for form in forms for text in filled(form, words)} for genre, forms in FORMS.items()}
    return {genre: shuffled(sorted(texts), rng) for genre, texts in made.items()}


def filled(form: str, words: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A form with its slots filled in every way, its articles put right."""
    slots = re.findall(r"{(\w+)}", form)
    for choice in itertools.product(*(words[slot] for slot in slots)):
        yield re.sub(r"\ba(?= [aeiou])", "an", form.format(**dict(zip(slots, choice, strict=True))))


def shuffled(items: Sequence[str], rng: random.Random) -> list[str]:
    """A copy of `items` in the order that `rng` gives."""
    return rng.sample(items, len(items))


FORMS = {
    "story": (
        "Tell a short story about a {mood} {hero} who finds a {object}.",
        "Tell a short story about a {mood} {trade} who loses a {object}.",
    ),
    "explain": (
        "Explain in simple words what a {thing} is for.",
        "Explain to a {listener} what a {thing} is for.",
        "Explain to a {listener} how to use a {thing}.",
        "Explain to a {listener} how to take care of a {thing}.",
    ),
    "describe": (
        "Describe a {weather} {time} at the {place}.",
        "Describe a {trade} at the {place} on a {weather} {time}.",
    ),
    "advice": (
        "Give some advice to a {mood} {trade}.",
        "Give some advice to a {mood} {trade} who {trouble}.",
    ),
    "letter": ("Write a short letter from a {trade} to a {relative} about a {topic}.",),
}


def listed(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [entry.strip() for entry in text.split(",")]


COMMON = {
    "mood": listed("shy, brave, old, young, curious, tired, kind, clever, lazy, lonely, proud, gentle"),
    "weather": listed("rainy, sunny, windy, foggy, snowy, quiet, busy, cold"),
    "time": listed("morning, afternoon, evening, night, day"),
    "listener": listed("child, visitor, pupil, grandmother, new neighbour, friend"),
    "trouble": listed(
        "cannot sleep, has lost a friend, wants to learn to swim, is afraid of the dark, works too much, "
        "is often late, wants to save money, feels alone, has a cold, is moving to a new town, "
        "wants to make new friends, is angry with a neighbour"
    ),
    "relative": listed("brother, sister, mother, father, old friend, cousin, neighbour, uncle"),
    "topic": listed(
        "storm, lost dog, new house, birthday, long journey, good harvest, wedding, broken window, "
        "warm summer, new job, visit to the city, bad dream, surprise gift, good meal"
    ),
}
LEARNT = COMMON | {
    "hero": listed(
        "fox, owl, rabbit, bear, mouse, cat, dog, horse, duck, hedgehog, frog, squirrel, wolf, goat, turtle, crow"
    ),
    "object": listed(
        "lantern, key, map, bell, kite, hat, book, coin, letter, mirror, basket, clock, drum, blanket, violin, box"
    ),
    "place": listed(
        "harbour, market, forest, farm, beach, river, station, garden, mill, bridge, school, mountain, bakery, lake"
    ),
    "trade": listed(
        "baker, sailor, teacher, farmer, doctor, gardener, cook, carpenter, nurse, painter, tailor, "
        "shepherd, pilot, miner"
    ),
    "thing": listed(
        "lighthouse, umbrella, bicycle, telescope, windmill, train, ladder, lock, kettle, needle, "
        "ship, wheel, oven, fence, raincoat, hammer, pillow, camera, newspaper, roof, well, wagon, "
        "calendar, tent, broom, lamp, stove, saddle, door, shoe, bowl, knife, bottle, table, carpet, "
        "bench, shovel, teapot, suitcase, bed, towel, radio, piano, truck, sweater, garage, farm, "
        "cupboard, fridge, ball, pencil, brush, stamp"
    ),
}
HELD_OUT = COMMON | {
    "hero": listed("badger, swan, otter, pony, mole"),
    "object": listed("compass, whistle, feather, spoon, ring"),
    "place": listed("castle, orchard, island, meadow"),
    "trade": listed("weaver, fisherman, blacksmith, librarian"),
    "thing": listed("thermometer, bucket, candle, anchor, button, rope, chimney, cradle"),
}
