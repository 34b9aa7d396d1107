"""``python -m training``: what is wrong is said once, by name and with what to do, and then nothing was written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import a_candidate, conversation, files_in, tiny_dataset, tiny_model, write_jsonl
from tests.toy_tokenizers import CHATML, ROOT, byte_level
from training.__main__ import main
from training.publish import publish

SETTINGS = {"name": "jo", "model": "model", "data": "personal/raw_style", "rank": 4, "iters": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, messages, and datasets with rows and with too few."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model(folder / "model")
    tiny_dataset(folder / "personal", blocks=4)
    tiny_dataset(folder / "few", blocks=1)
    write_jsonl(folder / "messages.jsonl", conversation("0101", 4))
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a command, with links to what was made; the process is left as it was."""
    before = os.umask(0o022)
    environment = dict(os.environ)
    for name in ("model", "personal", "few", "messages.jsonl"):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.umask(before)
    os.environ.clear()
    os.environ.update(environment)


def config(folder: Path, **settings: Any) -> str:
    (folder / "jo.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))
    return "jo.yaml"


def everything(folder: Path) -> tuple[list[str], dict[str, bytes]]:
    return sorted(path.name for path in folder.rglob("*")), files_in(folder.resolve())


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """What a command says that is refused and writes nothing."""
    before = everything(folder)
    code = main(arguments)
    said = capsys.readouterr()

    assert (1, "") == (code, said.out)
    assert before == everything(folder)
    errors = [line for line in said.err.splitlines() if line.startswith("error")]
    assert 1 == len(errors) and errors[0].startswith("error [")
    return said.err


# -- build


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "error [no_messages]: no messages to build from (no file given): run `python -m training import SOURCE"),
        (["absent.jsonl"], "error [no_such_file]: no file 'absent.jsonl': import messages first"),
        (["empty.jsonl"], "error [no_messages]: no messages to build from (empty.jsonl): run `python -m training"),
        (["messages.jsonl", "absent.jsonl"], "error [no_such_file]: no file 'absent.jsonl': import messages first"),
        (["personal"], "error [unreadable_file]: 'personal' cannot be read (IsADirectoryError)"),
    ],
    ids=["none", "absent", "empty", "one absent", "a folder"],
)
def test_build_without_messages(capsys: pytest.CaptureFixture[str], home: Path, files: list[str], message: str) -> None:
    """The file is named, and how to get messages."""
    (home / "empty.jsonl").write_text("")

    assert message in refused(capsys, home, "build", *files, "--name", "Jo", "--model", "model", "-o", "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "Them"], "error [invalid_name]: 'Them' is what prompts call the other side"),
        (["--name", "Jo", "--variant", "raw"], "error [unknown_variant]: no variant named 'raw'; there are: raw_style"),
        (["--name", "Jo", "--variant", "category_aware"], "error [no_relations]: category_aware needs to know"),
        (["--name", "Jo", "--contacts", "absent.yaml"], "error [unreadable_file]: 'absent.yaml' cannot be read"),
        (["--name", "Jo", "--model", "nowhere"], "error [no_such_model]: no model at 'nowhere': give the path"),
    ],
    ids=["name", "variant", "relations", "contacts", "model"],
)
def test_build_that_cannot_be(
    capsys: pytest.CaptureFixture[str], home: Path, arguments: list[str], message: str
) -> None:
    """What is wrong is named, and what there is."""
    given = ["build", "messages.jsonl", "--model", "model", "-o", "out", *arguments]

    assert message in refused(capsys, home, *given)


def test_build_says_how_much_it_wrote(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """What silences there were and what was left out, a line for each variant, and files for their owner alone."""
    code = main(["build", "messages.jsonl", "--name", "Jo", "--model", "model", "-o", "out"])
    lines = capsys.readouterr().out.splitlines()

    assert 0 == code
    assert "raw_style            4 train, 2 valid, 2 test  (out/raw_style)" == lines[-4]
    assert ["raw_style", "raw_style_variable", "turns", "look"] == [line.split()[0] for line in lines[-4:]]
    assert "look at it: out/report.html" == lines[-1]
    assert lines[0].startswith("silence between turns") and any("60 min" in line and "used" in line for line in lines)
    assert {"conversations 1, contacts 1, wholly held out 0", "left out: nothing", "masked: nothing"} <= set(lines)
    assert {0o600} == {path.stat().st_mode & 0o777 for path in Path("out").rglob("*") if path.is_file()}


# -- train


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (None, ["error [no_config]: no config 'jo.yaml': write one, or see data/example/jo.yaml"]),
        ("name: [jo", ["error [config_malformed]: 'jo.yaml' is not readable YAML"]),
        ("name: 2026-13-45", ["error [config_malformed]: 'jo.yaml' is not readable YAML"]),
        ("", ["error [config_malformed]: 'jo.yaml' is not a list of settings"]),
        (
            "name: jo\ndata: personal/raw_style\nlora_rank: 8\nlearnin_rate: 1e-4\n",
            [
                "error [config_invalid]: 'jo.yaml' has settings that cannot be",
                "unknown key 'lora_rank': did you mean 'rank'?",
                "unknown key 'learnin_rate': did you mean 'learning_rate'?",
            ],
        ),
        ("name: jo\ndata: d\nmethod: galore\ndropout: 0.1\n", ["dropout: 0 with method galore"]),
    ],
    ids=["absent", "cut off", "no such date", "empty", "unknown keys", "not with this method"],
)
def test_train_on_a_config_that_is_none(
    capsys: pytest.CaptureFixture[str], home: Path, content: str | None, messages: list[str]
) -> None:
    """The config is named, and every fault in it."""
    if content is not None:
        (home / "jo.yaml").write_text(content)
    said = refused(capsys, home, "train", "jo.yaml", "--adapters", "store")

    assert [] == [message for message in messages if message not in said]


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"data": "nothing/here"},
            ["error [no_dataset]: no dataset at 'nothing/here'", "run `python -m training build"],
        ),
        ({"data": "personal/turns"}, ["error [no_dataset]: no variant at 'personal/turns'", "built are: raw_style"]),
        (
            {"data": "few/raw_style"},
            [
                "error [empty_dataset]: 'few/raw_style' holds 4 training and 0 validation rows",
                "Import more messages and build again",
            ],
        ),
        ({"model": "nowhere"}, ["error [no_such_model]: no model at 'nowhere': give the path"]),
        (
            {"model": "personal"},
            ["error [unsafe_model]: the model in 'personal' cannot be used", "config.json is miss"],
        ),
        ({"modules": ["query"]}, ["error [config_invalid]: modules ['query'] match no linear layer", "attn.q_proj"]),
    ],
    ids=["no dataset", "a variant never built", "an empty dataset", "no model", "a folder without model", "no layer"],
)
def test_train_on_what_is_not_there(
    capsys: pytest.CaptureFixture[str], home: Path, settings: dict[str, Any], messages: list[str]
) -> None:
    """The folder is named, and what to do."""
    said = refused(capsys, home, "train", config(home, **settings), "--adapters", "store")

    assert [] == [message for message in messages if message not in said]


def test_train_on_a_dataset_for_another_tokenizer(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """The parts that differ are named, and what to do."""
    tiny_model(home / "other")
    byte_level(CHATML + " ").save_pretrained(home / "other")
    said = refused(capsys, home, "train", config(home, model="other"), "--adapters", "store")

    assert "error [contract_mismatch]: the dataset 'personal/raw_style' does not fit" in said
    assert "Build it again with this model (--model), or train on the one it was built with" in said
    assert "- contract.template_sha256 is " in said


def test_train_on_rows_that_were_changed(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """A dataset that is not what its summary says is not trained on."""
    folder = tiny_dataset(home / "mine", blocks=4).folder
    (folder / "train.jsonl").write_bytes(b"")

    said = refused(capsys, home, "train", config(home, data="mine/raw_style"), "--adapters", "store")
    assert "error [digest_mismatch]: 'mine/raw_style/train.jsonl' is not the file that dataset.json describes" in said


def test_train_resumes_nothing_where_nothing_is(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """Without a checkpoint --resume is refused, and the store is not even made."""
    assert 1 == main(["train", config(home), "--adapters", "store", "--resume"])
    assert "error [no_checkpoint]: no checkpoint at 'store/.staging-checkpoint-jo" in capsys.readouterr().err
    assert not (home / "store").exists()


@pytest.mark.parametrize("steps", ["0", "-3", "many", "1.5"])
def test_train_for_no_steps(home: Path, steps: str) -> None:
    """It is a wrong use of the command: exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["train", config(home), "--iters", steps])
    assert 2 == ended.value.code


# -- import, evaluate, adapters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "jsonl", "absent.jsonl"], "error [no_such_file]: no export at 'absent.jsonl'"),
        (["import", "smoke-signals", "messages.jsonl"], "error [unknown_source]: no importer 'smoke-signals'"),
        (["evaluate", "jo"], "error [unknown_adapter]: no adapter named 'jo'; there are: none"),
        (["evaluate", "jo@0123456789abcdef"], "error [unknown_generation]: adapter 'jo' has no generation"),
        (["adapters", "verify", "jo"], "error [unknown_adapter]: no adapter named 'jo' in 'adapters'"),
        (["adapters", "rollback", "jo"], "error [unknown_adapter]: no adapter named 'jo'; there are: none"),
    ],
    ids=" ".join,
)
def test_commands_about_what_is_not_there(
    capsys: pytest.CaptureFixture[str], home: Path, arguments: list[str], message: str
) -> None:
    """What is not there is named."""
    more = [] if arguments[0] == "import" else ["--adapters", "adapters"]

    assert message in refused(capsys, home, *arguments, *more)


def test_import_says_what_it_kept(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """And where it wrote: the messages, the report, and who is new among the contacts."""
    code = main(["import", "jsonl", "messages.jsonl"])

    assert 0 == code
    assert {"messages.jsonl", "messages.report.json", "contacts.yaml"} == {
        path.name for path in (home / "data" / "messages").iterdir()
    }
    assert [
        "jsonl: 16 entries seen, 16 kept, 50 % of them yours",
        "  conversations  1 direct, 0 groups, 1 people",
        "  dates          2026-01-05 to 2026-01-08",
        "  kinds          text 16",
        "written: data/messages/messages.jsonl and data/messages/messages.report.json",
        "people: 1 new in data/messages/contacts.yaml: give them a relation there for the variant category_aware",
    ] == capsys.readouterr().out.splitlines()


def test_adapters_are_listed_verified_and_rolled_back(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """One line for each generation; a damaged one fails the check by name."""
    first = publish(home / "store", a_candidate(seed=0), activate=True)
    second = publish(home / "store", a_candidate(seed=1, passed=False), activate=True)
    store = ["--adapters", "store"]

    assert 0 == main(["adapters", "list", *store])
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [f"  jo@{first}", f"* jo@{second}"] == [line.partition("  2")[0] for line in lines]
    assert ["loss 5.000 -> 4.000  gate passed", "loss 5.000 -> 4.000  gate not passed (overridden)"] == [
        line.partition("raw_style  ")[2] for line in lines
    ]

    assert 0 == main(["adapters", "verify", "jo", *store])
    assert "2 generations of 'jo' are what their manifests say\n" == capsys.readouterr().out

    assert 0 == main(["adapters", "rollback", "jo", first, *store])
    assert f"jo is now {first}; tell the service: POST /adapters/reload\n" == capsys.readouterr().out

    assert 0 == main(["adapters", "rollback", "jo", second, *store])
    assert [
        f"jo is now {second}; tell the service: POST /adapters/reload",
        "it did not pass the gate, which its manifest now says was overridden: worse than the base",
    ] == capsys.readouterr().out.splitlines()

    (home / "store" / "jo" / second / "adapters.safetensors").write_bytes(b"cut")
    assert f"- jo@{second} digest_mismatch" in refused(capsys, home, "adapters", "verify", "jo", *store)


def test_a_trained_adapter_is_evaluated(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """Training against the gate says so; evaluating prints a table and writes a page for its owner alone."""
    settings = config(home, gate={"max_valid_ratio": 0.01})
    assert 0 == main(["train", settings, "--adapters", "store", "--activate"])
    trained = capsys.readouterr().out.splitlines()
    assert "it is current all the same, as was asked for; its manifest says so" == trained[-1]
    (report,) = (line.removeprefix("look at it: ") for line in trained if line.startswith("look at it: "))
    assert (home / report).is_file()

    assert 0 == main(["evaluate", "jo", "--adapters", "store", "-o", "report.html"])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"jo@[0-9a-f]{16} on personal/raw_style: 4 held-out replies, 4 generated by each model", lines[0]
    )
    assert ["base", "adapter", "you", "others"] == lines[1].split()
    assert lines[-2].startswith("gate: validation loss ") and "look at it: report.html" == lines[-1]
    assert {0o600} == {(home / name).stat().st_mode & 0o777 for name in ("report.html", "report.json")}


def test_an_empty_store_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """It says what to do."""
    assert 0 == main(["adapters", "list", "--adapters", "store"])
    assert "no adapters in 'store' yet: python -m training train CONFIG.yaml\n" == capsys.readouterr().out


# -- as a program


def test_the_program_ends_with_the_exit_code(home: Path) -> None:
    """1 for what is refused, 2 for wrong usage, without a traceback."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = [
        subprocess.run([sys.executable, "-m", "training", *arguments], cwd=home, env=environment, capture_output=True)
        for arguments in (["build", "--name", "Jo"], ["train"], [])
    ]

    assert [1, 2, 2] == [done.returncode for done in ended]
    assert ended[0].stderr.startswith(b"error [no_messages]: no messages to build from (no file given)")
    assert [] == [done.stderr for done in ended if b"Traceback" in done.stderr]


def test_no_text_of_a_dataset_stands_in_an_error(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    """Not even of a damaged one."""
    folder = tiny_dataset(home / "mine", blocks=4).folder
    summary = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**summary, "contract": {"variant": "my pin is 4711"}}))
    said = refused(capsys, home, "train", config(home, data="mine/raw_style"), "--adapters", "store")

    assert "error [contract_malformed]" in said and "4711" not in said
