"""What both servers are given: a base in float32, a store of published adapters, and threads with their prompts.

Float32 on disk, since mlx_lm.server runs a base in the type it is stored in, and on a CPU only float32 goes through
the fast BLAS. mlx is imported where it is needed, in processes of their own.
"""

import itertools
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import save

from base_model.resolve import STARTER
from base_model.tokenizer import load_tokenizer
from benchmarks.alone import alone, prepare
from benchmarks.random_lfm2 import TOKENIZER_FILES, write_random_lfm2
from prompt_format.adapter_check import AdapterConfig, LoraParameters, config_json, expected_tensors
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.manifest import CONFIG, WEIGHTS, BaseIdentity, Data, Gate, Lora, Training
from prompt_format.messages import Message, Thread
from prompt_format.persona import Persona, Style
from training.publish import Candidate, publish

T = TypeVar("T")
RANK, SCALE, SPREAD = 8, 2.0, 0.02
FAINT = 0.05
EMBEDDING = "model.embed_tokens.weight"
PERSONA = Persona(name="Jo", style=Style(lower_case=88, full_stop=4, emoji=0, words=6, bubbles=14))
# name -> its variant: as many as the service has slots for.
ADAPTERS = {**{f"voice-{number}": "raw_style_variable" for number in range(1, 8)}, "turns": "turns"}
RETRAINED, GENERATIONS = "voice-1", 3
# Invented; the other side's and mine in turn.
SCRIPT = (
    "are you coming on saturday?", "i think so, what time",
    "doors at seven but the first band is never worth it", "eight then",
    "shall we eat before? there is the noodle place next to it", "yes please, i had no lunch today",
    "ok i will book a table for six thirty", "make it four, my sister wants to come too",
    "the one who plays the drums?", "no the other one, she just moved here",
    "nice! tell her to bring a jacket, we sit outside", "she has three, she will be fine",
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A thread as both servers take it.

    Attributes:
        messages: For ``POST /reply``.
        chat: The chat messages that our format makes of it: for ``/v1/chat/completions``.
        ids: Of the prompt.
    """

    variant: str
    messages: list[dict[str, Any]]
    chat: list[dict[str, str]]
    ids: list[int]


@dataclass
class World:
    """A base, a store, and threads nobody has asked about yet.

    Attributes:
        generations: name -> its generations; the last one is current.
    """

    model: Path
    store: Path
    generations: dict[str, list[str]]
    formats: dict[str, PromptFormat]
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def threads(self, variant: str, length: int) -> list[Question]:
        """A new thread as it grows to *length* messages: a question for each message of the other side.

        Each message begins with the thread's number: no prompt is one that was asked before, not even where the window
        has left the thread's beginning behind. A cache gets what it would get of different threads.
        """
        number = next(self._numbers)
        texts = [f"{number} {text}" for text in itertools.islice(itertools.cycle(SCRIPT), length)]
        return [self._question(variant, texts[:count]) for count in range(1, length + 1, 2)]

    def shown(self, question: Question, text: str) -> str:
        """What our service shows of a reply that a model wrote as *text*."""
        return "\n".join(self.formats[question.variant].parse_reply(text))

    def _question(self, variant: str, texts: list[str]) -> Question:
        thread = Thread(tuple(Message(text, from_me=number % 2 == 1) for number, text in enumerate(texts)))
        prompt = self.formats[variant].prompt(thread)
        messages = [{"from_me": message.from_me, "text": message.text} for message in thread.messages]
        chat = [{"role": message["role"], "content": message["content"]} for message in prompt.messages]
        return Question(variant, messages, chat, prompt.ids)


def make_world(kind: str, folder: Path) -> World:
    """The base *kind*, ``starter``, ``endless-starter`` or ``lfm2-350m``, and its adapters, below *folder*."""
    model, store = folder / "model", folder / "adapters"
    alone(prepared, write_base, kind, model)
    return World(model, store, alone(prepared, publish_adapters, model, store), formats_of(model))


def formats_of(model: Path) -> dict[str, PromptFormat]:
    """variant -> its format on the tokenizer in *model*, for each variant that an adapter has."""
    template = ChatTemplate(load_tokenizer(model))
    return {variant: PromptFormat(template, variant, PERSONA) for variant in sorted(set(ADAPTERS.values()))}


# -- in processes of their own


def prepared(function: Callable[..., T], *arguments: Any) -> T:
    """What *function* of *arguments* returns, with the BLAS opened as the service opens it."""
    prepare(None)
    return function(*arguments)


def write_base(kind: str, folder: Path) -> None:
    """The base *kind* in float32.

    Of the random model only words of its tokenizer come out: others' text would be empty, and nobody would see a
    first token. The endless starter does not end its turn. Both by rows of the embedding that are faint: it is the
    output layer too, and some other row's logit is always larger. What a step costs is the same.
    """
    import mlx.core as mx

    from base_model.arrays import load_arrays

    if kind == "lfm2-350m":
        write_random_lfm2(folder, STARTER, dtype="float32")
    source = folder if kind == "lfm2-350m" else STARTER
    weights, _ = load_arrays(source / "model.safetensors")
    weights = {name: value.astype(mx.float32) for name, value in weights.items()}
    rows = weights[EMBEDDING].shape[0]
    if kind != "starter":
        loudness = mx.array(_loudness(rows, words_only=kind == "lfm2-350m"))
        weights[EMBEDDING] = weights[EMBEDDING] * loudness[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", *TOKENIZER_FILES):
        (folder / name).write_bytes((source / name).read_bytes())
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


def _loudness(rows: int, words_only: bool) -> list[float]:
    """1.0 for each token that may be written, less for the others: not 0, since a probe is of the first few."""
    template = ChatTemplate(load_tokenizer(STARTER))
    ids = range(min(rows, len(template.tokenizer)))  # type: ignore[arg-type]
    if words_only:
        allowed = {i for i in ids if re.fullmatch(" ?[a-z]+", template.tokenizer.decode([i]))}
    else:
        allowed = set(ids) - set(template.stop_ids)
    return [1.0 if i in allowed else FAINT for i in range(rows)]


def publish_adapters(model: Path, store: Path) -> dict[str, list[str]]:
    """Random adapters of small factors, published as training does it; name -> its generations.

    Their probes are what mlx-lm's own model gives with the adapter loaded by mlx-lm.
    """
    from base_model.load import load_base

    base = load_base(str(model))
    formats = formats_of(model)
    return {
        name: [
            publish_random(base, store, name, formats[variant], 100 * number + generation)
            for generation in range(GENERATIONS if name == RETRAINED else 1)
        ]
        for number, (name, variant) in enumerate(ADAPTERS.items())
    }


def publish_random(base: Any, store: Path, name: str, form: PromptFormat, seed: int, spread: float = SPREAD) -> str:
    """A random adapter as the current generation of *name*, which is returned. Its values have a deviation of *spread*.

    Args:
        base: A ``base_model.load.Base``.
    """
    from base_model.load import projections
    from prompt_format.adapter_check import inner_names

    shapes, blocks = projections(base.model), len(base.model.layers)
    config = AdapterConfig(
        fine_tune_type="lora", num_layers=blocks, model=base.name,
        lora_parameters=LoraParameters(rank=RANK, scale=SCALE, dropout=0.0, keys=sorted(inner_names(shapes))),
    )  # fmt: skip
    weights, settings = save(_factors(shapes, seed, spread)), config_json(config)
    found, without = _probes(base.model, form, {WEIGHTS: weights, CONFIG: settings})
    candidate = Candidate(
        name=name, weights=weights, config=settings, contract=form.contract,
        base=BaseIdentity(id=base.name[:300], fingerprint=base.fingerprint),
        lora=Lora(type="lora", rank=RANK, scale=SCALE, modules=list(shapes)),
        data=Data(digest="sha256:0", counts={}),
        training=Training(config={"seed": seed}, steps=0, tokens=0, seed=seed, versions={}),
        metrics={}, probe=found, base_probe=without, gate=Gate(passed=True),
    )  # fmt: skip
    return publish(store, candidate, activate=True)


def _factors(shapes: dict[str, tuple[int, int]], seed: int, spread: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    expected = expected_tensors(tuple(shapes), shapes, RANK)
    return {name: random.normal(0, spread, shape).astype(np.float32) for name, shape in expected.items()}


def _probes(model: Any, form: PromptFormat, files: dict[str, bytes]) -> tuple[list[float], list[float]]:
    """The logits that a trainer measures: with the adapter, without."""
    from mlx_lm.tuner.utils import load_adapters, remove_lora_layers

    from training.train import probe

    without = probe(model, form)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        load_adapters(model, folder)
        found = probe(model, form)
    remove_lora_layers(model)
    return found, without
