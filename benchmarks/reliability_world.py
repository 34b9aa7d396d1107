"""A base in float32 and a store of random adapters whose replies can be told apart, for the reliability figures."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.alone import alone
from benchmarks.serving_world import World, formats_of, prepared, publish_random, write_base

VARIANT = "raw_style_variable"
SPREAD = 0.1  # with half of it many replies are the base's, with twice of it none is words
# Invented people; each line is said by somebody else than the one before.
SAID = (
    "did Marlow find his keys?", "yes, in the fridge", "the fridge?? how", "nobody knows",
    "Odile says the train is late again", "how late", "forty minutes, she is furious",
    "tell her i will wait at the station", "are you bringing the tent", "which one, the big one?",
    "the one that does not leak please", "that would be neither of them",
    "Pim learned to whistle today", "oh no", "all day long", "send earplugs",
    "what was the name of that film with the lighthouse", "no idea, ask Tamsin",
    "she thinks there were two", "then watch both",
    "your soup was the best thing this week", "it was only leeks", "then leeks are the best thing this week",
    "i will tell them",
)  # fmt: skip


def make_reliability_world(folder: Path, generations: Mapping[str, int]) -> World:
    """The starter below *folder* and, of each name in *generations*, so many generations; the last one is current."""
    model, store = folder / "model", folder / "adapters"
    alone(prepared, write_base, "starter", model)
    return World(model, store, alone(prepared, publish_many, model, store, dict(generations)), formats_of(model))


def publish_many(model: Path, store: Path, generations: Mapping[str, int], first_seed: int = 0) -> dict[str, list[str]]:
    """name -> its random generations, as many as *generations* says, published as training does it."""
    from base_model.load import load_base

    base, form = load_base(str(model)), formats_of(model)[VARIANT]
    seeds = iter(range(first_seed, first_seed + sum(generations.values())))
    return {
        name: [publish_random(base, store, name, form, next(seeds), SPREAD) for _ in range(count)]
        for name, count in generations.items()
    }
