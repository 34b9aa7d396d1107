"""``training evaluate``: a published generation measured again, on its own dataset or another one."""

from pathlib import Path

import safetensors.numpy

from base_model.load import load_base
from errors import AdapterRefused
from prompt_format.adapter_check import AdapterConfig, check_fit, check_manifest
from prompt_format.adapter_store import current, read_generation
from prompt_format.chat_template import ChatTemplate
from training.config import TrainConfig
from training.evaluate import evaluate
from training.lora import wear
from training.rows import load_dataset


def evaluate_again(store: Path, name: str, generation: str | None, data: Path | None) -> list[str]:
    """Lines about base and adapter on held-out replies.

    Raises:
        Refused: If adapter or dataset cannot be read, or do not belong together.
    """
    import mlx.core as mx

    generation = generation or current(store, name)
    files = read_generation(store, name, generation)
    manifest = check_manifest(files, name, generation)
    config = TrainConfig.model_validate(manifest.training.config)
    base = load_base(config.model)
    template = ChatTemplate(base.tokenizer)
    form = check_fit(manifest, base.fingerprint, template)
    dataset = load_dataset(data or config.data, template, config.max_tokens)
    if dataset.format.contract.digest != form.contract.digest:
        raise AdapterRefused(
            f"{name}@{generation} was trained under another contract than '{dataset.folder}' was built with",
            code="contract_mismatch",
        )
    adapter = AdapterConfig.model_validate_json(files.config)
    wear(base.model, adapter, {k: mx.array(value) for k, value in safetensors.numpy.load(files.weights).items()})
    base.model.eval()
    verdict = evaluate(base.model, dataset, config)
    lines = [f"{name}@{generation} on {dataset.folder}: {len(dataset.splits['test'])} held-out replies"]
    lines += [f"  {metric:22} {value:.4f}" for metric, value in sorted(verdict.metrics.items())]
    return [*lines, *(f"  gate: {reason}" for reason in verdict.gate.reasons or ["passed"])]
