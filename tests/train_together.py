"""One training on a tiny model, as one process or as one of several under ``mlx.launch``. No tests of its own.

    python -m tests.train_together FOLDER OUT

FOLDER holds what ``kill_training.prepare`` made; each rank writes its losses to OUT.<rank>.json and its weights
beside.
"""

import argparse
import json
import sys
from pathlib import Path

import mlx.core as mx

from base_model.load import load_base
from prompt_format.chat_template import ChatTemplate
from training.config import load_config
from training.distributed import Group
from training.finetune import finetune
from training.rows import load_dataset
from training.watch import Lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out")
    parser.add_argument("--seed-of-rank", type=int, default=None, help="this rank has another seed, hence config")
    options = parser.parse_args()
    rank = Group().rank
    config = load_config(options.folder / "jo.yaml").model_copy(update={"iters": 8, "epochs": None})
    if options.seed_of_rank == rank:
        config = config.model_copy(update={"seed": 1})
    base = load_base(config.model)
    dataset = load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)
    trained = finetune(base.model, dataset, config, Lines(lambda line: None))
    position = trained.position
    Path(f"{options.out}.{rank}.json").write_text(
        json.dumps({"losses": position.losses, "validation": position.validation, "base": trained.base_loss})
    )
    mx.save_safetensors(f"{options.out}.{rank}.safetensors", trained.exported.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
