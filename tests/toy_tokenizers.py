"""Small tokenizers and chat templates of our own, one for each kind of behaviour that public ones show.

Everything is built in memory: a tokenizer of 256 bytes with ChatML control tokens, one in the manner of sentencepiece,
and templates that refuse, drop, trim, date or wrap what they are given. ``tokenizer(label)`` also loads the real ones:
the embedded starter's, and those of ``../shared`` where that folder is there (a test that names one of them is skipped
where it is not).
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prompt_format.chat_template import ChatTemplate
from prompt_format.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

CHATML_TOKENS = ("<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _each(body: str, before: str = "", after: str = "") -> str:
    return "{{ bos_token }}" + before + "{% for m in messages %}" + body + "{% endfor %}" + after


TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
IS_REPLY = "loop.last and m.role == 'assistant'"
CHATML = _each(TURN, after=ASK)

ALL = tuple(VARIANTS)
ONLY_TRANSCRIPTS = {"turns": "variant_not_supported"}


@dataclass(frozen=True)
class Kind:
    """One kind of chat template.

    Attributes:
        template: Its text, or None, or several by name.
        control: Control tokens that it needs beyond ChatML's.
        refused: Variant -> code of the refusal, for the variants that it cannot express.
    """

    template: str | dict[str, str] | None
    control: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "chatml": Kind(CHATML),
    "no_template": Kind(None),
    "templates_by_name": Kind({"default": CHATML, "tool_use": "{{ raise_exception('tools only') }}"}),
    "refuses_two_of_one_side": Kind(
        _each(
            "{% if m.role != 'system' %}{% if (m.role == 'user') != (seen.n % 2 == 0) %}"
            "{{ raise_exception('user and assistant must alternate') }}{% endif %}"
            "{% set seen.n = seen.n + 1 %}{% endif %}" + TURN,
            before="{% set seen = namespace(n=0) %}",
            after=ASK,
        )
    ),
    "refuses_a_system_role": Kind(
        _each("{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURN, after=ASK)
    ),
    "demands_a_system_role": Kind(
        _each(
            TURN,
            before="{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}",
            after=ASK,
        )
    ),
    "drops_the_system_text": Kind(_each("{% if m.role != 'system' %}" + TURN + "{% endif %}", after=ASK)),
    "writes_its_own_system_text": Kind(
        _each(
            "{% if m.role != 'system' %}" + TURN + "{% endif %}",
            before="<|im_start|>system\nYou answer questions.<|im_end|>\n",
            after=ASK,
        )
    ),
    "adds_a_default_system_text": Kind(
        _each(
            TURN,
            before="{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}",
            after=ASK,
        )
    ),
    "trims": Kind(_each(TURN.replace("m.content", "m.content | trim"), after=ASK)),
    "dates_always": Kind(
        _each(
            TURN,
            before="{% macro now() %}{{ strftime_now('%A %d %B %Y, %H:%M') }}{% endmacro %}"
            "<|im_start|>system\n{{ now() }}<|im_end|>\n",
            after=ASK,
        )
    ),
    "dates_without_system": Kind(
        _each(
            "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURN,
            before="{% if messages[0].role != 'system' %}<|im_start|>system\nToday: {{ strftime_now('%Y-%m-%d') }}"
            "<|im_end|>\n{% endif %}",
            after=ASK,
        )
    ),
    "dates_by_variable": Kind(
        _each(TURN, before="[{{ date_string if date_string is defined else 'some day' }}]", after=ASK)
    ),
    "space_before_the_reply": Kind(
        _each(
            "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '\n' }}Guest: {{ m.content }}"
            "{% else %}{{ '\n' }}Host: {{ m.content }}{{ eos_token }}{% endif %}",
            after="{% if add_generation_prompt %}{{ '\n' }}Host:{% endif %}",
        )
    ),
    "think_block_before_the_reply": Kind(
        _each(
            "{% if " + IS_REPLY + " %}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ m.content }}<|im_end|>\n"
            "{% else %}" + TURN + "{% endif %}",
            after=ASK,
        ),
        control=("<think>", "</think>"),
    ),
    "thinks_aloud_in_the_prompt": Kind(
        _each(
            "{% if " + IS_REPLY + " %}<|im_start|>assistant\n<think>\n</think>\n{{ m.content }}<|im_end|>\n"
            "{% else %}" + TURN + "{% endif %}",
            after="{% if add_generation_prompt %}<|im_start|>assistant\n<think>\nWell,{% endif %}",
        )
    ),
    "channel_before_the_reply": Kind(
        _each(
            "<|open|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|text|>{{ m.content }}"
            "{% if " + IS_REPLY + " %}<|done|>{% else %}<|close|>{% endif %}",
            after="{% if add_generation_prompt %}<|open|>assistant{% endif %}",
        ),
        control=("<|open|>", "<|channel|>", "<|text|>", "<|done|>", "<|close|>"),
    ),
    "another_history_with_a_reply": Kind(
        _each(
            "{% if m.role == 'assistant' and not loop.last and messages[-1].role == 'assistant' %}"
            "<|im_start|>earlier\n{{ m.content }}<|im_end|>\n{% else %}" + TURN + "{% endif %}",
            before="{% if messages[-1].role == 'assistant' %}[closed]{% else %}[open]{% endif %}",
            after=ASK,
        )
    ),
    "drops_think_blocks_from_history": Kind(
        _each(
            "{% if m.role == 'assistant' and not loop.last %}<|im_start|>assistant\n"
            "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% else %}" + TURN + "{% endif %}",
            after=ASK,
        )
    ),
    "nothing_after_the_reply": Kind(
        _each(
            "<|im_start|>{{ m.role }}\n{{ m.content }}{% if not (" + IS_REPLY + ") %}<|im_end|>\n{% endif %}",
            after=ASK,
        )
    ),
    "text_before_the_end_of_turn": Kind(_each(TURN.replace("<|im_end|>", "\n\n<|im_end|>"), after=ASK)),
    "plain_text_markers": Kind(
        _each(
            "{{ '\n\n## ' + m.role }}:\n{{ m.content }}",
            after="{% if add_generation_prompt %}{{ '\n\n## ' }}assistant:\n{% endif %}",
        )
    ),
    "plain_text_markers_on_one_line": Kind(
        _each(" {{ m.role | upper }}: {{ m.content }}", after="{% if add_generation_prompt %} ASSISTANT:{% endif %}"),
        refused=ONLY_TRANSCRIPTS,
    ),
    "loses_roles": Kind(_each("{{ m.content }}{{ eos_token }}"), refused=ONLY_TRANSCRIPTS),
    "joins_tokens_from_role_names": Kind(
        _each("{{ '<|' + m.role + '|>' + m.content + '<|im_end|>' }}"),
        control=("<|system|>", "<|user|>", "<|assistant|>"),
    ),
    "keeps_only_the_last_exchange": Kind(
        "{% set kept = messages if messages | length < 4 else messages[:1] + messages[-2:] %}"
        + CHATML.replace("in messages", "in kept"),
        refused={"turns": "template_loses_text"},
    ),
    "refuses_history": Kind(
        _each(
            TURN,
            before="{% if messages | length > 3 %}{{ raise_exception('one question, one answer') }}{% endif %}",
            after=ASK,
        ),
        refused={"turns": "template_refused"},
    ),
    "escapes_markup": Kind(
        CHATML.replace("m.content", "m.content | e"), refused=dict.fromkeys(ALL, "template_loses_text")
    ),
}

# These cannot carry a conversation at all: ``ChatTemplate`` refuses them.
USELESS: dict[str, str] = {
    "raises_always": "{{ raise_exception('not today') }}",
    "is_broken": "{% for m in messages %}{{ m.content }}",
    "drops_the_reply": _each("{% if m.role != 'assistant' %}" + TURN + "{% endif %}", after=ASK),
    "drops_everything": "{{ bos_token }}Hello!" + ASK,
    "changes_letters": CHATML.replace("m.content", "m.content | upper"),
    "says_all_twice": CHATML.replace("{{ m.content }}", "{{ m.content }} {{ m.content }}"),
    "wants_a_list_of_parts": CHATML.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}"),
}


def byte_level(
    template: str | dict[str, str] | None = CHATML,
    *,
    control: tuple[str, ...] = CHATML_TOKENS,
    eos: str | None = "<|im_end|>",
    normalizer: Any = None,
    merges: tuple[tuple[str, str], ...] = (),
) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes, *merges* (byte-level spelling: ``Ċ`` is a line break) and *control* tokens."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    return _wrapped(backend, template, control, eos)


def sentencepiece_like(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Unigram pieces with byte fallback: a space is ``▁``, one is put in front, and decoding 'cleans up' spaces."""
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -2.0)]
    backend = Tokenizer(models.Unigram([*pieces, *((letter, -3.0) for letter in "aehinorst")], 0, True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(backend, template, CHATML_TOKENS, "<|im_end|>", clean_up_tokenization_spaces=True)


def _wrapped(
    backend: Tokenizer, template: str | dict[str, str] | None, control: tuple[str, ...], eos: str | None, **more: Any
) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    if "<|startoftext|>" in control:
        more["bos_token"] = "<|startoftext|>"
    if eos is not None:
        more["eos_token"] = eos
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, **more)
    wrapped.chat_template = template
    return wrapped


@dataclass(frozen=True)
class Folder:
    """A real tokenizer on disk, and the variants that its chat template cannot express."""

    path: Path
    refused: dict[str, str] = field(default_factory=dict)


STARTER = ROOT / "base_model" / "starter"
FOLDERS = {
    "starter": Folder(STARTER),
    "qwen2.5": Folder(SHARED / "tokenizers" / "qwen2.5"),
    "smollm2": Folder(SHARED / "tokenizers" / "smollm2_reconstructed"),
    "gpt2": Folder(SHARED / "tokenizers" / "gpt2", ONLY_TRANSCRIPTS),
    "pythia": Folder(SHARED / "tokenizers" / "pythia_410m"),
    "stories260k": Folder(SHARED / "models" / "stories260k"),
}
TOYS = {
    "composes_characters": lambda: byte_level(normalizer=normalizers.NFC()),
    "merges_across_the_seam": lambda: byte_level(merges=(("Ċ", "y"), ("Ċ", "T"), ("Ġ", "y"), ("y", "e"))),
    "sentencepiece": sentencepiece_like,
}
REFUSED = {
    **{name: kind.refused for name, kind in KINDS.items()},
    **{name: {} for name in TOYS},
    **{name: folder.refused for name, folder in FOLDERS.items()},
}


@cache
def tokenizer(label: str) -> Any:
    """The tokenizer called *label*: a toy with that kind of template, another toy, or a real one."""
    if label in FOLDERS:
        return AutoTokenizer.from_pretrained(FOLDERS[label].path)
    if label in TOYS:
        return TOYS[label]()
    kind = KINDS[label]
    return byte_level(kind.template, control=(*CHATML_TOKENS, *kind.control))


@cache
def chat_template(label: str) -> ChatTemplate:
    """The tokenizer called *label*, probed."""
    return ChatTemplate(tokenizer(label))


def named(*labels: str) -> list[Any]:
    """*labels* for ``parametrize``; those of a folder outside the repository are skipped where it is absent."""
    return [pytest.param(label, marks=_needs(label)) for label in labels]


def variants_of(labels: tuple[str, ...], *, refused: bool) -> list[Any]:
    """(label, variant) for ``parametrize``: the pairs that are refused, or those that are not."""
    return [
        pytest.param(label, variant, marks=_needs(label), id=f"{label}-{variant}")
        for label in labels
        for variant in ALL
        if (variant in REFUSED[label]) is refused
    ]


def _needs(label: str) -> list[Any]:
    if label not in FOLDERS or label == "starter":  # the starter is part of the repository: no excuse
        return []
    path = FOLDERS[label].path
    return [pytest.mark.skipif(not path.is_dir(), reason=f"{path} is not there")]


EVERY = tuple(REFUSED)
