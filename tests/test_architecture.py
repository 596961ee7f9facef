"""The house's plan, as docs/architecture.md has it: which room may import which, and how large a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sattxt

PACKAGE = Path(sattxt.__file__).parent

#: Rooms from the ground up; a room imports only from its own floor or from below.
FLOORS = (
    {"errors"},
    {"io"},
    {"config"},
    {"weights"},
    {"images", "labels"},
    {"vision", "text", "pictures"},
    {"classify", "segment", "data"},
    {"model"},
    {"evaluation", "scenes"},
    {"training"},
    {"cli", "demo", "__init__", "__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
#: Reached from below only while a release is converted, and imported there.
LAZILY = {("weights.convert", "text"), ("weights.convert", "vision")}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules of the package that ``tree`` imports when it runs, without the package's name."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    for node in ast.iter_child_nodes(tree):
        yield from imports(node)
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                part if (PACKAGE.parent / f"{part.replace('.', '/')}.py").is_file() else node.module for part in parts
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.removeprefix("sattxt.") for name in names if name.startswith("sattxt."))


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms == set(FLOOR_OF)


def test_no_room_imports_one_above_it() -> None:
    upward = {
        f"{name} -> {found}"
        for name, tree in modules()
        for found in imports(tree)
        if FLOOR_OF[found.split(".")[0]] > FLOOR_OF[name.split(".")[0]] and (name, found.split(".")[0]) not in LAZILY
    }
    assert upward == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = dict(modules())
    above: dict[str, set[str]] = {
        name: {found for found in imports(tree) if found in known and found != name} for name, tree in known.items()
    }
    while free := [name for name, needs in above.items() if not needs & above.keys()]:
        for name in free:
            del above[name]
    assert {name: sorted(needs & above.keys()) for name, needs in above.items()} == {}


def test_no_file_is_too_long_to_read() -> None:
    long = [path.name for path in PACKAGE.rglob("*.py") if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert long == []
