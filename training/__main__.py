"""The command line: ``python -m training {import,build,configs,train,evaluate,adapters} ...``.

Exit codes: 0 done, 1 refused (the message says why), 2 wrong usage, 3 the store is locked, 70 internal failure.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers

from base_model.fast_cpu import HOW_TO_INSTALL, prepare_cpu
from base_model.offline import stay_offline
from base_model.resolve import is_hub_id
from errors import AdapterRefused, ConfigRefused, DataRefused, SamevoiceError, exit_code, internal_failure
from prompt_format.window import A_YEAR
from training.private_files import PRIVATE_UMASK
from training.progress import Progress

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.plan import Plan

STORE = Path(os.environ.get("SAMEVOICE_ADAPTERS", "adapters"))
STARTER = "base_model/starter"
CONTACTS = "contacts.yaml"
BLOCK_LIST = "block_list.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.umask(PRIVATE_UMASK)
    options = _parser().parse_args(arguments)
    try:
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
    except SamevoiceError as error:
        print(f"error [{error.code}]: {error}", file=sys.stderr)
        return exit_code(error)
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename or 'the disk'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was published before is as it was", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001  a traceback could show message text
        print(internal_failure(error), file=sys.stderr)
        return 70
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def run_import(options: argparse.Namespace) -> None:
    from training.contacts import add_people
    from training.history import import_messages
    from training.sources.options import Options

    out = options.output or Path("data/messages") / f"{options.path.stem}.jsonl"
    contacts = options.contacts or out.with_name(CONTACTS)
    told = Options(tuple(options.me), options.region, options.tz, options.day_first, dict(options.column))
    with Progress() as tell:
        coverage = import_messages(options.source, options.path, told, out, tell)
    say("\n".join([*coverage.lines(), f"written: {out} and {out.with_suffix('.report.json')}"]))
    added = add_people(contacts, coverage.people, coverage.source, options.region)
    if added:
        say(f"people: {added} new in {contacts}: give them a relation there for the variant category_aware")


def run_build(options: argparse.Namespace) -> None:
    from base_model.resolve import resolve
    from base_model.tokenizer import load_tokenizer
    from prompt_format.chat_template import ChatTemplate
    from training.conversations import read_history
    from training.dataset import build

    plan = _plan(options)
    stay_offline(hub_allowed=is_hub_id(options.model))
    history = read_history(options.messages, plan.since)  # what is wrong here is said before a tokenizer is loaded
    template = ChatTemplate(load_tokenizer(resolve(options.model)))
    with Progress() as tell:
        built = build(history, template, options.output, plan, tell)
    say("\n".join(built.statistics.lines(plan.gaps.session_minutes)))
    for variant in built.variants:
        counts = ", ".join(f"{count} {split}" for split, count in variant.counts.items())
        say(f"{variant.variant:20} {counts}  ({variant.folder})")
    say(f"look at it: {built.report}")


def _plan(options: argparse.Namespace) -> "Plan":
    """What the options of ``build`` ask for. Files beside the messages are used where none are named."""
    from training.contacts import Contacts, load_contacts
    from training.plan import Plan
    from training.privacy.block_list import load_block_list
    from training.privacy.rules import Rules
    from training.selection import Limits

    contacts = _beside(options.contacts, options.messages, CONTACTS)
    blocked = _beside(options.block_list, options.messages, BLOCK_LIST)
    return Plan(
        name=options.name,
        variants=options.variant,
        contacts=load_contacts(contacts, options.region) if contacts else Contacts(),
        groups=options.groups,
        since=options.since,
        session_minutes=options.session_gap,
        burst_minutes=options.burst_gap,
        limits=Limits(per_contact=options.per_contact, per_reply=options.per_reply / 100),
        rules=Rules(options.region, load_block_list(blocked) if blocked else None, not options.keep_private),
        workers=options.workers,
    )


def _beside(given: Path | None, messages: Sequence[Path], name: str) -> Path | None:
    if given is not None or not messages:
        return given
    found = messages[0].with_name(name)
    return found if found.is_file() else None


def run_configs(options: argparse.Namespace) -> None:
    from training.configs import make_configs
    from training.grid import GRID

    stay_offline(hub_allowed=False)
    made = make_configs(options.data, options.output, options.grid or GRID, options.name)
    say("\n".join(made.lines()))


def run_train(options: argparse.Namespace) -> None:
    from training.config import load_config

    config = load_config(options.config)
    if options.iters is not None:
        config = config.model_copy(update={"iters": options.iters, "epochs": None})
    _prepare_mlx(config.model)
    if options.find_lr:
        return _find_rate(config)
    from training.live_view import watching
    from training.train import notify, train

    look = options.iters is not None
    with watching(sys.stdout) as watch:
        published = train(config, options.adapters, watch, options.resume, options.activate, look)
    if published is None:
        return  # another process of this run publishes
    metrics, gate = published.verdict.metrics, published.verdict.gate
    before = metrics.get("previous_test_loss")
    say(
        f"held-out reply loss: base {metrics['base_test_loss']:.3f}, "
        f"{f'previous {before:.3f}, ' if before is not None else ''}adapter {metrics['test_loss']:.3f} nats a token "
        f"({100 * (metrics['test_loss'] / metrics['base_test_loss'] - 1):+.1f} %)"
    )
    say(f"published {published.name}@{published.generation}{' (current)' if published.activated else ''}")
    say(f"look at it: {options.adapters / published.name / published.generation / 'report.html'}")
    if not gate.passed:
        say("the gate did not pass: " + "; ".join(gate.reasons))
        if published.activated:
            say("it is current all the same, as was asked for; its manifest says so")
        else:
            say(f"to use it all the same: python -m training adapters rollback {published.name} {published.generation}")
    if options.notify and published.activated:
        say(notify(options.notify, published.name, _token(options.token_file)))


def _find_rate(config: "TrainConfig") -> None:
    from training.find_lr import sweep
    from training.live_view import watching

    with watching(sys.stdout) as watch:
        found = sweep(config, watch)
    say("\n".join(found.lines()))
    picture = Path("data") / f"find-lr-{config.name}.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(found.png())
    say(f"look at it: {picture}")


def run_evaluate(options: argparse.Namespace) -> None:
    name, _, generation = options.adapter.partition("@")
    _prepare_mlx(STARTER)
    from training.again import evaluate_again

    for line in evaluate_again(options.adapters, name, generation or None, options.data, options.output):
        say(line)


def run_adapters_list(options: argparse.Namespace) -> None:
    from training.publish import list_adapters

    rows = list_adapters(options.adapters)
    others = _without_generation(options.adapters)
    if not rows and not others:
        say(f"no adapters in '{options.adapters}' yet: python -m training train CONFIG.yaml")
    for row in rows:
        mark = "*" if row.is_current else " "
        if row.manifest is None:
            say(f"{mark} {row.name}@{row.generation}  cannot be served: {row.fault}")
            continue
        metrics = row.manifest.metrics
        loss = f"{metrics['base_test_loss']:.3f} -> {metrics['test_loss']:.3f}" if "test_loss" in metrics else "unknown"
        gate, variant = row.manifest.gate.words, row.manifest.contract.variant
        say(f"{mark} {row.name}@{row.generation}  {row.manifest.created_at}  {variant}  loss {loss}  {gate}")
    for name, fault in others.items():
        say(f"  {name}  cannot be served: {fault.code}: {fault.message}")


def _without_generation(store: Path) -> dict[str, AdapterRefused]:
    """The names in *store* that hold no generation, and why they cannot be served by name alone."""
    from prompt_format.adapter_store import current, generations, names

    found = {}
    for name in names(store):
        if not generations(store, name):
            try:
                current(store, name)
            except AdapterRefused as fault:
                found[name] = fault
    return found


def run_adapters_verify(options: argparse.Namespace) -> None:
    from training.publish import list_adapters

    rows = [row for row in list_adapters(options.adapters) if row.name == options.name]
    if not rows:
        raise _without_generation(options.adapters).get(
            options.name,
            DataRefused(f"no adapter named '{options.name}' in '{options.adapters}'", code="unknown_adapter"),
        )
    bad = [f"{row.name}@{row.generation} {row.fault}" for row in rows if row.fault]
    if bad:
        raise DataRefused(f"{len(bad)} of {len(rows)} generations are damaged", code="adapter_refused", details=bad)
    say(f"{len(rows)} generations of '{options.name}' are what their manifests say")


def run_adapters_rollback(options: argparse.Namespace) -> None:
    from training.publish import rollback

    manifest = rollback(options.adapters, options.name, options.generation)
    say(f"{options.name} is now {manifest.generation}; tell the service: POST /adapters/reload")
    if not manifest.gate.passed:
        say("it did not pass the gate, which its manifest now says was overridden: " + "; ".join(manifest.gate.reasons))


def run_adapters_import(options: argparse.Namespace) -> None:
    _prepare_mlx(options.model)
    from training.adopt import REASON, adopt

    made = adopt(
        options.path, options.adapters, options.name, options.model, options.variant, options.persona, options.activate
    )
    say(f"{made.kind} adapter on {made.modules} layers; it will be given the prompts of the variant {made.variant}")
    say(f"published {made.name}@{made.generation}{' (current)' if made.activated else ''}")
    say(f"the gate did not pass: {REASON}")
    if not made.activated:
        say(f"to use it all the same: python -m training adapters rollback {made.name} {made.generation}")


def run_adapters_remove(options: argparse.Namespace) -> None:
    from training.remove import remove

    name, generation = options.adapter
    remove(options.adapters, name, generation)
    say(f"{name}@{generation} is gone")


def _prepare_mlx(model: str) -> None:
    """Before anything imports mlx: network, noise and BLAS."""
    stay_offline(hub_allowed=is_hub_id(model))
    if sys.platform == "linux" and prepare_cpu(threads=1, side_by_side=True) is None:
        print(f"note: {HOW_TO_INSTALL}", file=sys.stderr)


def _token(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigRefused(f"the token file '{path}' cannot be read ({type(error).__name__})") from None


def _steps(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def _one_generation(text: str) -> tuple[str, str]:
    name, sign, generation = text.partition("@")
    if not sign or not name or not generation:
        raise argparse.ArgumentTypeError("NAME@GENERATION, as `adapters list` shows it")
    return name, generation


def _region(text: str) -> str:
    if text.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise argparse.ArgumentTypeError("a country in two letters, for example US")
    return text.upper()


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError):
        raise argparse.ArgumentTypeError("no such time zone; for example Europe/Paris") from None


def _column(text: str) -> tuple[str, str]:
    field, sign, column = text.partition("=")
    if not sign or not field or not column:
        raise argparse.ArgumentTypeError("FIELD=COLUMN, for example text=Message")
    return field, column


def _day(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("a day, for example 2024-12-31") from None


def _minutes(text: str) -> float:
    if not 0 < float(text) <= A_YEAR:
        raise argparse.ArgumentTypeError("minutes, more than 0")
    return float(text)


def _share(text: str) -> float:
    if not 0 < float(text) <= 100:
        raise argparse.ArgumentTypeError("a percentage")
    return float(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Message history -> dataset -> adapter.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_import, _add_build, _add_configs, _add_train, _add_evaluate, _add_adapters):
        add(commands)
    return parser


def _add_import(commands: Any) -> None:
    from training.sources.registry import SOURCES

    command = commands.add_parser("import", help="an export -> data/messages/NAME.jsonl and a coverage report")
    command.add_argument("source", metavar="SOURCE", help=f"auto, or one of {', '.join(SOURCES)}")
    command.add_argument("path", type=Path, metavar="PATH", help="a file, a folder or a zip")
    command.add_argument("--me", action="append", default=[], help="your address or name, as the export has it")
    command.add_argument("--region", type=_region, help="country of numbers without a country code, for example US")
    command.add_argument("--tz", type=_zone, help="time zone of exports that name none; default: this computer's")
    command.add_argument("--day-first", action=argparse.BooleanOptionalAction, help="is 3/4 the third of April")
    command.add_argument(
        "--column", type=_column, action="append", default=[], metavar="FIELD=COLUMN", help="of tables"
    )
    command.add_argument("--contacts", type=Path, help=f"new people go here; default: {CONTACTS} beside the output")
    command.add_argument("-o", "--output", type=Path, help="default: data/messages/<file>.jsonl")
    command.set_defaults(run=run_import)


def _add_build(commands: Any) -> None:
    command = commands.add_parser("build", help="messages -> data/personal/<variant>/*.jsonl")
    command.add_argument("messages", type=Path, nargs="*", metavar="MESSAGES.jsonl")
    command.add_argument("--name", required=True, help="your name, as prompts label your turns")
    command.add_argument("--variant", action="append", default=[], help="default: each that holds data")
    command.add_argument("--model", default=STARTER, help="the base model whose tokenizer and template are used")
    command.add_argument("--contacts", type=Path, help=f"who is who; default: {CONTACTS} beside the messages")
    command.add_argument("--block-list", type=Path, help=f"what to leave out; default: {BLOCK_LIST} beside")
    command.add_argument("--groups", action="store_true", help="learn from group chats too")
    command.add_argument("--since", type=_day, metavar="YYYY-MM-DD", help="leave out what was written before")
    command.add_argument("--session-gap", type=_minutes, metavar="MIN", help="silence that ends a session; default 60")
    command.add_argument("--burst-gap", type=_minutes, metavar="MIN", help="silence that ends a turn; default 10")
    command.add_argument("--per-contact", type=_steps, default=2000, help="replies to one contact, at most")
    command.add_argument("--per-reply", type=_share, default=1.0, metavar="PERCENT", help="of one same reply, at most")
    command.add_argument("--region", type=_region, help="country of numbers without a country code, for example US")
    command.add_argument("--keep-private", action="store_true", help="do not look for numbers, addresses, codes ...")
    command.add_argument("--workers", type=_steps, help="processes; default: one for each core where there is much")
    command.add_argument("-o", "--output", type=Path, default=Path("data/personal"))
    command.set_defaults(run=run_build)


def _add_configs(commands: Any) -> None:
    command = commands.add_parser("configs", help="datasets -> a training config for each model, method and variant")
    command.add_argument("data", type=Path, metavar="DATA", help="what build wrote, for example data/personal")
    command.add_argument("--grid", type=Path, metavar="GRID.yaml", help="models, settings; default: training/grid.yaml")
    command.add_argument("--name", help="what adapter names begin with; default: the name the data was built with")
    command.add_argument("-o", "--output", type=Path, default=Path("configs"))
    command.set_defaults(run=run_configs)


def _add_train(commands: Any) -> None:
    token_file = Path(os.environ.get("SAMEVOICE_TOKEN_FILE", ".samevoice/token"))
    command = commands.add_parser("train", help="config -> a published adapter")
    command.add_argument("config", type=Path, metavar="CONFIG.yaml")
    command.add_argument("--iters", type=_steps, help="so many steps only, and show rows and replies")
    command.add_argument("--find-lr", action="store_true", help="try learning rates, publish nothing")
    command.add_argument("--resume", action="store_true", help="go on after a kill")
    command.add_argument("--activate", action="store_true", help="make it current even if the gate does not pass")
    command.add_argument("--notify", metavar="URL", help="tell this service, for example http://127.0.0.1:8000")
    command.add_argument("--token-file", type=Path, default=token_file, help="the service's token, for --notify")
    _store(command)
    command.set_defaults(run=run_train)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate", help="base, generation before and adapter on held-out replies -> a report"
    )
    command.add_argument("adapter", metavar="NAME[@GENERATION]")
    command.add_argument("--data", type=Path, help="default: the dataset it was trained on")
    command.add_argument(
        "-o", "--output", type=Path, metavar="report.html", help="with a .json beside it; default: in its own folder"
    )
    _store(command)
    command.set_defaults(run=run_evaluate)


def _add_adapters(commands: Any) -> None:
    adapters = commands.add_parser("adapters", help="list, verify, roll back, import, remove")
    what = adapters.add_subparsers(required=True, metavar="WHAT")
    listing = what.add_parser("list", help="every generation; * marks the current ones")
    listing.set_defaults(run=run_adapters_list)
    verify = what.add_parser("verify", help="are the files what their manifests say")
    verify.add_argument("name")
    verify.set_defaults(run=run_adapters_verify)
    back = what.add_parser("rollback", help="make an earlier generation current")
    back.add_argument("name")
    back.add_argument("generation", nargs="?")
    back.set_defaults(run=run_adapters_rollback)
    foreign = what.add_parser("import", help="a PEFT or mlx-lm adapter folder -> a generation")
    foreign.add_argument("path", type=Path, metavar="PATH", help="the folder; only safetensors are read")
    foreign.add_argument("--name", required=True, help="what to call it in the store")
    foreign.add_argument("--model", default=STARTER, help="the base model that it was trained on")
    foreign.add_argument("--variant", help="the prompts that it shall be given; default: raw_style")
    foreign.add_argument("--persona", metavar="NAME", help="the name that labels your turns; default: Me")
    foreign.add_argument("--activate", action="store_true", help="make it current, though it was never measured")
    foreign.set_defaults(run=run_adapters_import)
    remove = what.add_parser("remove", help="delete a generation that is not current")
    remove.add_argument("adapter", type=_one_generation, metavar="NAME@GENERATION")
    remove.set_defaults(run=run_adapters_remove)
    for command in (listing, verify, back, foreign, remove):
        _store(command)


def _store(command: argparse.ArgumentParser) -> None:
    command.add_argument("--adapters", type=Path, default=STORE, help="the adapter store")


if __name__ == "__main__":
    sys.exit(main())
