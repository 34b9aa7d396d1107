"""Which package may import which, and which files may import MLX: read from the syntax, not by importing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("prompt_format", "base_model", "training", "service")
# Programs by which the embedded base was made: they may use MLX and the prompt format, and nothing uses them.
RECIPE = "base_model/starter/recipe/"
MAY_IMPORT = {
    "prompt_format": {"prompt_format", "errors"},
    "base_model": {"base_model", "errors"},
    "training": {"training", "prompt_format", "base_model", "errors"},
    "service": {"service", "prompt_format", "base_model", "errors"},
}
IMPORT_MLX = {
    "base_model": {"arrays", "load"},
    "training": {
        "lora",
        "reply_loss",
        "shared_prefix",
        "finetune",
        "find_lr",
        "checkpoint",
        "generate",
        "train",
        "again",
        "distributed",
        "memory",
        "previous",
        *(f"methods/{name}" for name in ("method", "low_rank", "pissa", "dora", "galore")),
    },  # fmt: skip
    "service": {"cpu_linear", "slots", "sampling", "mlx_device", "decoding", "memory_facts"},
    "prompt_format": set(),
}
OURS = {*PACKAGES, "errors", "benchmarks", "tests"}


def files() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(file: str) -> Iterator[str]:
    """Every module that *file* imports, wherever in it; ``from a import b`` may mean the module ``a.b``."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively: say the whole name"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(file: str) -> set[str]:
    return {module.split(".")[0] for module in imports(file)}


def is_recipe(file: str) -> bool:
    return file.startswith(RECIPE)


@pytest.mark.parametrize("file", [file for file in files() if not is_recipe(file)])
def test_arrows_point_one_way(file: str) -> None:
    """A package imports only what design.md lets it: training and service never each other, nothing points back."""
    package = file.split("/")[0]

    assert set() == (tops(file) & OURS) - MAY_IMPORT[package]


@pytest.mark.parametrize("file", [file for file in files() if is_recipe(file)])
def test_the_recipe_uses_neither_training_nor_service(file: str) -> None:
    """The base model's recipe is written with the prompt format alone."""
    assert set() == tops(file) & {"training", "service", "benchmarks", "tests"}


def test_nothing_uses_the_recipe() -> None:
    """The programs that made the embedded base are no part of anything else."""
    users = {file for file in files() if not is_recipe(file) for module in imports(file) if "starter.recipe" in module}

    assert set() == users


def test_only_named_files_import_mlx() -> None:
    """Everything but these files runs, and is tested, on a machine without MLX."""
    users = {file for file in files() if tops(file) & {"mlx", "mlx_lm"} and not is_recipe(file)}

    assert {f"{package}/{name}.py" for package, names in IMPORT_MLX.items() for name in names} >= users


@pytest.mark.parametrize("file", [file for file in files() if file.startswith("prompt_format/")])
def test_the_prompt_format_knows_neither_mlx_nor_http(file: str) -> None:
    """What training and service share is plain Python."""
    assert set() == tops(file) & {"mlx", "mlx_lm", "fastapi", "starlette", "uvicorn"}


def test_http_stays_in_the_service() -> None:
    """Only the service knows HTTP, and of it only the files that answer."""
    users = {file for file in files() if tops(file) & {"fastapi", "starlette", "uvicorn"}}

    routes = {"app", "openai_routes", "vllm_routes"}
    answer = {"__main__", "answers", "delivery", "doors", "observed", *routes}
    assert {f"service/{name}.py" for name in answer} == users


def test_errors_import_nothing_of_ours() -> None:
    """The tree of errors stands under everything."""
    assert set() == tops("errors.py") & OURS


def test_no_file_is_forgotten_by_these_tests() -> None:
    """Every package is looked at."""
    assert set(PACKAGES) == {file.split("/")[0] for file in files()}
    assert Path(ROOT / "errors.py").is_file()
