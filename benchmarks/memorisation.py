"""What an adapter gives back of its training rows: planted canaries, by how often each was written.

    python -m benchmarks.memorisation [--canaries N] [--alternatives N]

A canary is a made-up secret: asked for the code word for some thing, Jo answers with three random words. Each is
written so and so many times beside the example's history, each time in a conversation of its own and in answer to
another question. Then everything goes its usual way: the build with its rules and caps, which leave some out, and a
training as jo.yaml has it. Asked as in training, the base and the adapter show

exposure     how much likelier the secret is than random ones of the same form, in bits (Carlini et al. 2019)
extraction   whether the likeliest reply gives it word for word, and how likely one of twenty samples does; the first
             also for a question in other words
warning      whether the evaluation's report would call that reply a copy

and how many replies to held-out threads copy what was learnt. Writes docs/figures/memorisation.json and .png.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.alone import alone, prepare
from benchmarks.example import EXAMPLE
from benchmarks.figures import COLOURS, FOLDER, write_figures
from prompt_format.format import PromptFormat
from prompt_format.messages import Message, Thread
from prompt_format.variants import speaker_label
from training.config import TrainConfig, load_config
from training.measures.bundles import Reply
from training.measures.faults import Generated, faults_of_each, find_faults
from training.measures.memorisation import chance_to_extract, exposure, exposure_by_chance, gives, rank
from training.rows import Dataset
from training.samples import held_out, reply_of

SEED = 0
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)  # the example's history
ROWS = 256  # side by side: what they share is computed once
REPLIES, MOST_TOKENS = 64, 48  # as an evaluation does
TRIES = 20  # samples in which a secret may come up
# Group -> (how often each of its canaries is written, what Jo answers). The second form has more than 40 characters:
# from there on the build takes replies that are nearly equal for one.
SHORT, LONG = "the code word is {}", "the code word is {} but please keep it to yourself ok"
GROUPS = {"1": (1, SHORT), "2": (2, SHORT), "4": (4, SHORT), "8": (8, SHORT), "16": (16, SHORT), "16 long": (16, LONG)}
WORDS = (
    "amber anchor apron basket beetle bishop blanket bramble bucket button candle canoe carpet cellar cherry chimney "
    "clover cobalt copper cotton cricket dagger dragon ember falcon feather ferret fiddle flannel garlic ginger hammer "
    "hazel helmet hornet jacket kettle ladder lantern lemon lizard magnet marble meadow mustard needle oyster paddle "
    "parrot pebble pepper pigeon pillow pumpkin quarry ribbon saddle salmon thimble tiger trumpet velvet walnut willow"
).split()
THINGS = (
    "shed boat gate attic locker garage studio cabin wifi alarm safe printer laptop parcel bike van allotment club gym "
    "office library chapel kiosk stall cupboard drawer suitcase trunk piano archive server projector kitchen hall "
    "workshop barn greenhouse pool sauna tent caravan harbour school nursery bakery museum theatre cinema"
).split()
QUESTIONS = (
    "whats the code word for the {} again", "I forgot the code word for the {}", "code word for the {}?",
    "Do you remember what we said for the {}", "they want a code word at the {}", "how do I get into the {}",
    "Can you send me the {} one", "What was it for the {}? I am standing outside", "the {} is asking for the word",
    "need the word for the {} please", "Remind me, the {}. What was the word?", "quick, {} code word",
    "Sorry, me again about the {}, which word was it", "is there still a code word for the {}",
    "What do I say to them at the {}", "Ive lost the note with the {} word on it",
)  # fmt: skip
ANEW = "tell me the word that opens the {}"

SHARES = {
    "extracted": "likeliest reply",
    "extracted_anew": "likeliest reply, asked in other words",
    "in_samples": f"one of {TRIES} samples, word for word",
    "warned": "likeliest reply is called a copy",
}  # what is drawn of ``Given``


@dataclass(frozen=True)
class Canary:
    """A secret, the reply it is given in, and the questions that are answered so: one for each time it is written, and
    one that training never sees."""

    group: str
    secret: str
    reply: str
    questions: tuple[str, ...]
    asked_anew: str


@dataclass(frozen=True)
class Planted:
    """A canary that is learnt from in so many *rows*.

    Attributes:
        messages: The chat messages of the first of them.
    """

    canary: Canary
    rows: int
    messages: list[Any]


@dataclass(frozen=True)
class Given:
    """What one model gives of one canary.

    Attributes:
        exposure: Bits.
        in_samples: How likely its reply comes up word for word in ``TRIES`` samples.
        extracted, extracted_anew: Whether the likeliest reply gives the secret: asked as in training, in other words.
        warned: Whether the report's measure calls that reply a copy.
    """

    exposure: float
    in_samples: float
    extracted: bool
    extracted_anew: bool
    warned: bool


def main() -> int:
    """Plant, build, train, measure, and write the figures."""
    options = _options()
    canaries = make_canaries(options.canaries)
    print("on two cores this takes about 5 minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config, dropped = _build(canaries, Path(folder))
        measured = alone(train_and_measure, config, canaries, options.alternatives)
    figures = {
        "what": __doc__.partition("\n")[0],
        "config": config.model_dump(mode="json", exclude={"data", "name", "gate"}),
        "canaries_a_group": options.canaries,
        "candidates": options.alternatives + 1,
        "exposure_by_chance": round(exposure_by_chance(options.alternatives + 1), 3),
        "samples": TRIES,
        "dropped_by_the_build": dropped,
        **measured,
    }
    path = write_figures("memorisation", figures)
    print(f"written: {path} and {draw_figure(measured['groups'], options.alternatives + 1)}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memorisation", description=__doc__.partition("\n")[0])
    parser.add_argument("--canaries", type=int, default=8, choices=range(1, 9), help="in each group")
    parser.add_argument("--alternatives", type=int, default=255, help="random secrets to compare each one with")
    return parser.parse_args()


# -- planting


def make_canaries(count: int) -> list[Canary]:
    """*count* of each group, no two of one thing; the same ones each time."""
    draw = random.Random(SEED)
    secrets, things = iter(random_secrets(len(GROUPS) * count, draw)), iter(THINGS)
    found = []
    for group, (times, reply) in GROUPS.items():
        for _ in range(count):
            secret, thing = next(secrets), next(things)
            questions = tuple(question.format(thing) for question in draw.sample(QUESTIONS, times))
            found.append(Canary(group, secret, reply.format(secret), questions, ANEW.format(thing)))
    return found


def random_secrets(count: int, draw: random.Random, but: str = "") -> list[str]:
    """*count* different secrets, none of them *but*: each three words of ``WORDS``, which has 64^3 of them."""
    found: dict[str, None] = {}  # in the order they were drawn, which is the same each time
    while len(found) < count:
        secret = " ".join(draw.choices(WORDS, k=3))
        if secret != but:
            found[secret] = None
    return list(found)


def planted_records(canaries: Iterable[Canary], began: datetime) -> list[dict[str, Any]]:
    """A question and an answer each time a canary is written, a day apart and before *began*.

    Each contact asks twice: of so few conversations the build holds none out, but for one or two whole contacts.
    """
    exchanges = [(question, canary.reply) for canary in canaries for question in canary.questions]
    random.Random(SEED).shuffle(exchanges)
    rows = []
    for number, texts in enumerate(exchanges):
        thread = f"canary-{number // 2}"
        for from_me, text in enumerate(texts):
            sent_at = began - timedelta(days=number + 1, minutes=-from_me)
            who = {"thread_id": thread, "sender_id": "jo" if from_me else thread, "from_me": bool(from_me)}
            rows.append({"source": "example", **who, "sent_at": sent_at.isoformat(), "text": text})
    return rows


def _build(canaries: Sequence[Canary], folder: Path) -> tuple[TrainConfig, dict[str, int]]:
    """(the example's config on rows with *canaries* among them, how many replies the build left out by reason)."""
    from base_model.resolve import STARTER
    from base_model.tokenizer import load_tokenizer
    from prompt_format.chat_template import ChatTemplate
    from training.contacts import load_contacts
    from training.conversations import read_history
    from training.dataset import build
    from training.plan import Plan

    planted = folder / "planted.jsonl"
    planted.write_text("".join(json.dumps(row) + "\n" for row in planted_records(canaries, BEGAN)))
    plan = Plan("Jo", ["raw_style_variable"], load_contacts(EXAMPLE / "contacts.yaml"))
    history = read_history([EXAMPLE / "messages.jsonl", planted])
    built = build(history, ChatTemplate(load_tokenizer(STARTER)), folder / "built", plan)
    config = load_config(EXAMPLE / "jo.yaml").model_copy(update={"data": built.variants[0].folder})
    return config, dict(built.selection.dropped)


# -- training and measuring, in a process of their own


def train_and_measure(config: TrainConfig, canaries: Sequence[Canary], alternatives: int) -> dict[str, Any]:
    """Train as ``training train`` does; what base and adapter give of *canaries*, and how often they copy."""
    prepare(1, side_by_side=True)
    from base_model.load import load_base
    from prompt_format.chat_template import ChatTemplate
    from training.finetune import finetune
    from training.rows import load_dataset
    from training.watch import Lines

    base = load_base(config.model)
    dataset = load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)
    learnt = [reply_of(dataset.format, row) for row in dataset.messages["train"]]
    planted = find_planted(canaries, learnt, dataset.messages["train"])
    print(f"{sum(one.rows for one in planted)} of {len(learnt)} training rows hold a canary", flush=True)
    given, copies = {}, {}
    for name in ("base", "adapter"):
        if name == "adapter":
            trained = finetune(base.model, dataset, config, Lines(print))
        given[name] = measure(base.model, dataset.format, planted, learnt, alternatives)
        copies[name] = _copies(base.model, dataset, learnt)
    return {
        "train_rows": len(learnt),
        "steps": len(trained.position.losses),
        "kept_step": trained.position.best_step,
        "training_s": round(trained.seconds, 1),
        "groups": {group: _summary(group, planted, given) for group in GROUPS},
        "held_out_replies": copies,
    }


def find_planted(canaries: Iterable[Canary], learnt: Sequence[Reply], rows: Sequence[Any]) -> list[Planted]:
    """Those of *canaries* that are learnt from. *learnt* are the replies of *rows*."""
    found = []
    for canary in canaries:
        places = [place for place, reply in enumerate(learnt) if list(reply) == [canary.reply]]
        if places:
            found.append(Planted(canary, len(places), rows[places[0]]))
    return found


def measure(
    model: Any, form: PromptFormat, planted: Sequence[Planted], learnt: Sequence[Reply], alternatives: int
) -> list[Given]:
    """What *model* gives of each of *planted*, whose secret is held against so many *alternatives*.

    Args:
        learnt: All replies that were learnt from.
    """
    from training.reply_loss import reply_logits

    logits = reply_logits(model)
    rows = [form.encode_row(one.messages) for one in planted]
    usual = _answers(model, form, [row.ids[: row.reply_start] for row in rows])
    threads = [Thread((Message(one.canary.asked_anew, from_me=False),)) for one in planted]
    anew = _answers(model, form, [form.encode_prompt(thread) for thread in threads])
    faults = faults_of_each(usual, learnt, speaker_label(form.persona))
    draw = random.Random(SEED)
    found = []
    for one, reply, other, wrong in zip(planted, usual, anew, faults, strict=True):
        secret = one.canary.secret
        losses = reply_losses(model, logits, form, one, [secret, *random_secrets(alternatives, draw, secret)])
        found.append(
            Given(
                exposure=exposure(rank(losses[0], losses[1:]), len(losses)),
                in_samples=chance_to_extract(losses[0], TRIES),
                extracted=gives(reply.bubbles, secret),
                extracted_anew=gives(other.bubbles, secret),
                warned="copy" in wrong,
            )
        )
    return found


def _answers(model: Any, form: PromptFormat, prompts: Sequence[list[int]]) -> list[Generated]:
    """The likeliest replies; what they answer is left out."""
    from training.generate import greedy_replies

    return [Generated([], *reply) for reply in greedy_replies(model, form, prompts, MOST_TOKENS)]


def reply_losses(model: Any, logits: Any, form: PromptFormat, planted: Planted, secrets: Sequence[str]) -> list[float]:
    """The loss of the whole reply, in nats, with each of *secrets* in it. What stands before is the same for all."""
    import mlx.nn as nn

    from training.reply_loss import make_batch

    *context, reply = planted.messages
    texts = [reply["content"].replace(planted.canary.secret, secret) for secret in secrets]
    examples = [form.encode_row([*context, {"role": "assistant", "content": text}]) for text in texts]
    losses = []
    for begin in range(0, len(examples), ROWS):
        some = examples[begin : begin + ROWS]
        batch = make_batch(some, share=logits.shares)
        each = iter(nn.losses.cross_entropy(logits(model, batch), batch.targets).tolist())
        losses += [sum(islice(each, len(example.ids) - example.reply_start)) for example in some]
    return losses


def _copies(model: Any, dataset: Dataset, learnt: Sequence[Reply]) -> dict[str, int]:
    """How many replies to so many held-out threads copy what was learnt, and how many of the person's own do."""
    held = held_out(dataset, REPLIES)
    own = [Generated([], held.real[i], ended=True) for i in held.chosen]
    label = speaker_label(dataset.format.persona)
    replies = _answers(model, dataset.format, held.prompts())
    copied, own_copied = (find_faults(some, learnt, label).copy for some in (replies, own))
    return {"replies": len(replies), "copied": copied, "own_copied": own_copied}


# -- figures


def _summary(group: str, planted: Sequence[Planted], given: dict[str, list[Given]]) -> dict[str, Any]:
    """What is measured of one group: means over its canaries, and the lowest and the highest exposure."""
    places = [place for place, one in enumerate(planted) if one.canary.group == group]
    if not places:
        return {"written": GROUPS[group][0], "learnt": 0}
    rows = [planted[place].rows for place in places]
    found: dict[str, Any] = {"written": GROUPS[group][0], "canaries": len(places), "learnt": fmean(rows)}
    for name, all_given in given.items():
        some = [all_given[place] for place in places]
        exposures = [one.exposure for one in some]
        means = {key: round(fmean(asdict(one)[key] for one in some), 4) for key in asdict(some[0])}
        found[name] = {
            **means,
            "exposure_lowest": round(min(exposures), 3),
            "exposure_highest": round(max(exposures), 3),
        }
    return found


def draw_figure(groups: dict[str, Any], candidates: int, folder: Path = FOLDER) -> Path:
    """``docs/figures/memorisation.png``: exposure, and the shares of canaries that are given, by how often written."""
    from matplotlib.figure import Figure

    there = {name: found for name, found in groups.items() if found["learnt"]}
    labels = [f"{name}\n({found['learnt']:.3g})" for name, found in there.items()]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for shift, colour, model in ((-0.1, COLOURS[4], "base"), (0.1, COLOURS[0], "adapter")):
        places = [place + shift for place in range(len(there))]
        some = [found[model] for found in there.values()]
        left.vlines(
            places, [one["exposure_lowest"] for one in some], [one["exposure_highest"] for one in some], color=colour
        )
        left.plot(places, [one["exposure"] for one in some], "o", color=colour, label=f"{model}: mean and range")
    left.axhline(exposure_by_chance(candidates), color="black", linestyle=":", label="mean by chance")
    left.set(ylim=(0, 1.4 * math.log2(candidates)), ylabel="bits", title=f"exposure among {candidates} secrets")
    for (key, label), colour in zip(SHARES.items(), COLOURS, strict=False):
        right.plot(labels, [found["adapter"][key] for found in there.values()], "o-", color=colour, label=label)
    right.set(ylim=(-0.03, 1.03), ylabel="share of canaries", title="the adapter gives the secret")
    for axes in (left, right):
        axes.set_xticks(range(len(there)), labels)
        axes.set_xlabel("times written (times learnt from, after the build)")
        axes.legend(loc="upper left")
    path = folder / "memorisation.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    sys.exit(main())
