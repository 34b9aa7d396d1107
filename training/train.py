"""``training train``: config -> dataset -> LoRA weights -> verdict -> a published generation -> the service is told."""

import json
import platform
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import safetensors.numpy

from base_model.load import Base, load_base
from base_model.resolve import resolve
from base_model.tokenizer import load_tokenizer
from errors import DataRefused, TrainingStopped
from prompt_format.adapter_check import config_json
from prompt_format.chat_template import ChatTemplate
from prompt_format.format import PromptFormat
from prompt_format.manifest import BaseIdentity, Data, Lora, Training
from prompt_format.probe import PROBE_LOGITS, probe_prompt
from training.config import TrainConfig
from training.distributed import Group
from training.evaluate import Verdict, evaluate
from training.evaluation_report import About, report_files
from training.finetune import Trained, finetune
from training.lora import Off
from training.methods.method import Exported
from training.previous import current_one
from training.publish import Candidate, generation_name, judged, publish
from training.quick_check import first_rows, side_by_side
from training.rows import Dataset, load_dataset
from training.watch import Silent, Watch


@dataclass(frozen=True)
class Published:
    """What a training run left in the store."""

    name: str
    generation: str
    verdict: Verdict
    trained: Trained
    activated: bool


def train(
    config: TrainConfig,
    store: Path,
    watch: Watch,
    resume: bool = False,
    activate: bool = False,
    look: bool = False,
) -> Published | None:
    """Run the whole way from *config* to a generation in *store*.

    It becomes current when it passes the gate, or when *activate* asks for it. With *look* it shows rows before the
    training and replies after it. Under ``mlx.launch`` the first process does what follows the training; the others
    say nothing and get None.

    Raises:
        Refused: Of every kind, before anything is written; what was published before stays as it was.
    """
    is_first = Group().rank == 0
    watch = watch if is_first else Silent()
    dataset = load_dataset(config.data, ChatTemplate(load_tokenizer(resolve(config.model))), config.max_tokens)
    if dataset.cut or dataset.refused:
        watch.say(
            f"max_tokens {config.max_tokens}: {dataset.cut} prompts cut from the left, "
            f"{dataset.refused} rows left out because the reply alone is longer"
        )
    for line in first_rows(dataset) if look else ():
        watch.say(line)
    base = load_base(config.model)
    checkpoint = store / f".staging-checkpoint-{config.name}.safetensors"
    trained = finetune(base.model, dataset, config, watch, checkpoint, resume, base.fingerprint)
    if not is_first:
        return None
    watch.say(f"trained {trained.position.step} steps in {trained.seconds:.0f} s; measuring on held-out replies")
    previous = current_one(store, config.name, base, dataset.format)
    verdict = evaluate(base.model, dataset, config, previous)
    if verdict.note:
        watch.say(verdict.note)
    for line in side_by_side(verdict.samples) if look else ():
        watch.say(line)
    _check_unchanged(dataset, config, base)
    active = activate or verdict.gate.passed
    made = candidate(base, dataset, config, trained, verdict)
    generation = publish(store, replace(made, beside=_beside(made, dataset, config, trained, verdict, active)), active)
    checkpoint.unlink(missing_ok=True)
    return Published(config.name, generation, verdict, trained, active)


def candidate(base: Base, dataset: Dataset, config: TrainConfig, trained: Trained, verdict: Verdict) -> Candidate:
    """The generation that *trained* makes."""
    exported = trained.exported
    weights = {name: np.array(value.astype(mx.float32)) for name, value in sorted(exported.weights.items())}
    _check_names(set(weights), exported)
    with Off(base.model):
        base_probe = probe(base.model, dataset.format)
    return Candidate(
        name=config.name,
        weights=safetensors.numpy.save(weights, {"format": "mlx"}),
        config=config_json(exported.adapter),
        base=BaseIdentity(id=config.model, fingerprint=base.fingerprint),
        contract=dataset.format.contract,
        lora=_lora(exported),
        data=Data(digest=dataset.digest, counts={split: len(rows) for split, rows in dataset.splits.items()}),
        training=Training(
            config=json.loads(config.model_dump_json()),
            steps=trained.position.best_step,
            tokens=trained.position.tokens,
            seed=config.seed,
            versions={
                "python": platform.python_version(),
                **{p: version(p) for p in ("mlx", "mlx-lm", "transformers")},
            },
        ),
        metrics=verdict.metrics | exported.figures,
        probe=probe(base.model, dataset.format),
        base_probe=base_probe,
        gate=verdict.gate,
    )


def _beside(
    made: Candidate, dataset: Dataset, config: TrainConfig, trained: Trained, verdict: Verdict, active: bool
) -> dict[str, bytes]:
    """The report on *made*, file by file."""
    from training.plots import loss_curve

    adapter = f"{made.name}@{generation_name(made)}"
    about = About.of(adapter, made.base.id, config, made.training.steps, dataset)
    curve = loss_curve(trained.position.losses, trained.position.validation, trained.base_loss)
    return report_files(about, verdict, judged(made.gate, active), curve)


def _check_names(names: set[str], exported: Exported) -> None:
    """Nothing is published but what the adapter's config says."""
    tensors = ("lora_a", "lora_b", "m") if exported.adapter.fine_tune_type == "dora" else ("lora_a", "lora_b")
    if names != {f"{module}.{tensor}" for module in exported.modules for tensor in tensors}:
        raise TrainingStopped("other weights were trained than the adapter has", code="unexpected_weights")


def _lora(exported: Exported) -> Lora:
    parameters = exported.adapter.lora_parameters
    kind: Any = exported.adapter.fine_tune_type
    return Lora(type=kind, rank=parameters.rank, scale=parameters.scale, modules=exported.modules)


def probe(model: Any, form: PromptFormat) -> list[float]:
    """What the service must find again when it has loaded the adapter (``prompt_format.probe``)."""
    logits = model(mx.array([probe_prompt(form)]))[0, -1, :PROBE_LOGITS]
    values: list[float] = logits.astype(mx.float32).tolist()
    return values


def _check_unchanged(dataset: Dataset, config: TrainConfig, base: Base) -> None:
    again = load_dataset(config.data, ChatTemplate(base.tokenizer), config.max_tokens)
    if again.digest != dataset.digest:
        raise DataRefused(
            f"'{config.data}' was built anew while training ran: train again on the new rows", code="dataset_changed"
        )


def notify(url: str, name: str, token: str | None) -> str:
    """Tell the service at *url* to pick up *name*; returns one line about its answer."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the token is for nobody else
    try:
        body = json.dumps({"name": name}).encode()
        request = urllib.request.Request(url.rstrip("/") + "/adapters/reload", body, headers)
        with direct.open(request, timeout=120) as answer:
            result = json.load(answer)["results"][0]
            return f"the service says: {name} {result['status']}, generation {result['generation']}"
    except urllib.error.HTTPError as error:
        return f"the service refused it: {error.code} {error.read(2000).decode(errors='replace')}"
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:  # no service, or no such answer
        return (
            f"the service at {url} was not told ({type(error).__name__}); it will find the adapter at its next reload"
        )
