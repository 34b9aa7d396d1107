"""``training build``: messages -> ``data/personal/<variant>/{train,valid,test}.jsonl`` and ``dataset.json``.

Every row is made by ``prompt_format``, in the form mlx-lm's chat datasets take, and names the contract it was made
under. The messages are read twice, conversation by conversation: once to choose which replies are learnt from
(``chosen``, ``selection``), once to write them (``dataset_files``). So memory does not grow with the texts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from errors import BaseRefused, DataRefused
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.persona import Persona, check_name
from prompt_format.variants import VARIANTS
from training.chosen import choose
from training.conversations import History
from training.data_report import write_report
from training.dataset_files import Written, write_variants
from training.plan import Plan
from training.progress import Tell, silent
from training.selection import Selection
from training.statistics import Statistics


@dataclass
class Built:
    """What was written, and all that was counted on the way."""

    variants: list[Written]
    statistics: Statistics
    selection: Selection
    report: Path


def build(history: History, template: ChatTemplate, out: Path, plan: Plan, tell: Tell = silent) -> Built:
    """Build the datasets of *plan* from a history (``read_history``).

    Raises:
        DataRefused: If there is nothing to build from; nothing has been written then.
        BaseRefused: If the base's template cannot carry a variant that was asked for.
    """
    variants = _variants(plan)
    try:
        check_name(plan.name)
    except ValueError as error:
        raise DataRefused(str(error), code="invalid_name") from None
    chosen = choose(history, plan, tell)
    persona = Persona(name=plan.name, style=chosen.selection.style)
    formats = list(_expressible(variants, template, persona, plan))
    written = write_variants(formats, chosen, out, tell)
    report = write_report(formats, chosen, written, out)
    return Built(written, chosen.statistics, chosen.selection, report)


def _variants(plan: Plan) -> list[str]:
    unknown = [variant for variant in plan.variants if variant not in VARIANTS]
    if unknown:
        raise DataRefused(f"no variant named '{unknown[0]}'; there are: {', '.join(VARIANTS)}", code="unknown_variant")
    related = plan.contacts.has_relations
    if "category_aware" in plan.variants and not related:
        raise DataRefused(
            "category_aware needs to know your relation with people: write it into contacts.yaml (--contacts)",
            code="no_relations",
        )
    return list(plan.variants) or [variant for variant in VARIANTS if variant != "category_aware" or related]


def _expressible(
    variants: Iterable[str], template: ChatTemplate, persona: Persona, plan: Plan
) -> Iterator[PromptFormat]:
    """The formats that the base's template can carry. One that was asked for and cannot be is an error."""
    for variant in variants:
        try:
            yield PromptFormat(template, variant, persona, plan.window_of(variant))
        except BaseRefused:
            if plan.variants:
                raise
