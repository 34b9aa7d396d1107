"""Held-out loss of the starter, set by set: nats a token of the replies, and of the whole conversation.

    python base_model/starter/recipe/measure.py CORPUS_FOLDER [MODEL_FOLDER]

writes MODEL_FOLDER/held_out.json, and the table in MODEL_FOLDER/README.md where there is one.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from base_model.fast_cpu import prepare_cpu
from base_model.offline import stay_offline

stay_offline(hub_allowed=False)
prepare_cpu()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402

from base_model.load import load_base  # noqa: E402
from base_model.starter.recipe.corpus import MIX, set_rows  # noqa: E402
from prompt_format.chat_template import ChatTemplate  # noqa: E402

MOST_ROWS = 150
BEGIN, END = "<!-- held-out loss, by recipe/measure.py -->", "<!-- end -->"


def measure(corpus: Path, folder: Path) -> dict[str, dict[str, float]]:
    """set -> rows, tokens of replies, loss a token of replies, loss a token after the system message."""
    base = load_base(str(folder))
    template = ChatTemplate(base.tokenizer)
    found = {}
    for name in MIX:
        rows = list(set_rows(corpus, name, random.Random(0), held_out=True))[:MOST_ROWS]
        found[name] = _loss(base.model, template, rows)
        print(f"{name:24} {found[name]}", flush=True)
    return found


def _loss(model: Any, template: ChatTemplate, rows: list[Any]) -> dict[str, float]:
    reply_total = reply_count = total = count = 0.0
    for row in rows:
        head = template.encode(template.head(row[:-1]))
        ids = [*head, *template.encode_reply(row[-1]["content"])]
        begin = len(template.encode(template.head(row[:-1]).split("<|im_end|>", 1)[0])) + 1
        losses = nn.losses.cross_entropy(model(mx.array([ids[:-1]]))[0], mx.array(ids[1:])).tolist()
        reply_total, reply_count = reply_total + sum(losses[len(head) - 1 :]), reply_count + len(ids) - len(head)
        total, count = total + sum(losses[begin - 1 :]), count + len(ids) - begin
    return {
        "rows": len(rows),
        "reply_tokens": reply_count,
        "reply_loss": round(reply_total / reply_count, 4),
        "loss": round(total / count, 4),
    }


def write_table(card: Path, found: dict[str, dict[str, float]]) -> None:
    """Put *found* between the marks of the model card."""
    lines = ["| set | rows | reply tokens | reply loss | whole loss |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row['rows']} | {row['reply_tokens']:.0f} | {row['reply_loss']:.2f} | {row['loss']:.2f} |"
        for name, row in found.items()
    ]
    before, _, rest = card.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    card.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("model", type=Path, nargs="?", default=Path("base_model/starter"))
    arguments = parser.parse_args()
    found = measure(arguments.corpus, arguments.model)
    (arguments.model / "held_out.json").write_text(json.dumps(found, indent=1) + "\n")
    if (arguments.model / "README.md").exists():
        write_table(arguments.model / "README.md", found)


if __name__ == "__main__":
    main()
