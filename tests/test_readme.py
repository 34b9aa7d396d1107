"""The README cannot lie: what it lists is there, and what is there it lists."""

import re
from pathlib import Path

from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from tests.fakes import FakeDevice

README = Path("README.md").read_text()


def test_every_folder_and_file_of_the_tree_is_there() -> None:
    """Each name in the tree exists, and each package of the project stands in it."""
    tree = re.findall(r"^    (  )?(\w[\w./]*)  +\w.*$", README.partition("## How it fits")[2].partition("##")[0], re.M)
    parents = {"starter/": "base_model/", "example/": "data/"}
    parents |= dict.fromkeys(["sources/", "privacy/", "methods/", "measures/"], "training/")
    listed = {(parents[name] if indent else "") + name for indent, name in tree}
    packages = {f"{path.parent}/" for path in Path().glob("*/__init__.py")} - {"tests/"}

    assert packages <= listed
    assert set() == {name for name in listed if not Path(name).exists()}


def test_every_route_is_in_the_table() -> None:
    """The table of routes is the app's."""
    app = create_app(Settings(), Engine(FakeDevice))
    routes = {(method, route.path) for route in app.routes for method in route.methods}  # type: ignore[attr-defined]
    table = set(re.findall(r"`(GET|POST) (/[\w/{}]*)`", README))

    assert routes == table


def test_every_make_target_it_names_exists() -> None:
    """No command in the README is missing from the Makefile."""
    targets = set(re.findall(r"^(\w+):", Path("Makefile").read_text(), re.M))

    assert set(re.findall(r"\bmake (\w+)", README.replace("make it", ""))) - {"and"} <= targets
