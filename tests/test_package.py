"""What an installation promises: a light import, a quick --help, one manifest, files that name no machine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import sattxt
from sattxt import errors
from sattxt.cli import exits

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "numpy", "PIL", "huggingface_hub")


def loaded_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after ``code``."""
    report = f"\nimport sys; print('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light():
    assert loaded_by("import sattxt; sattxt.__version__; dir(sattxt)") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["classify", "--help"], ["labels", "sets"], ["--version"]])
def test_help_is_light(arguments):
    assert loaded_by(f"from sattxt.cli.app import run; assert run({arguments!r}) == 0") == set()


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "sattxt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"sattxt {sattxt.__version__}\n"


@pytest.mark.parametrize("name", sattxt.__all__)
def test_public_names_exist(name):
    assert name in dir(sattxt)
    assert getattr(sattxt, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SatText'"):
        sattxt.SatText  # noqa: B018


def test_type_checkers_see_the_names_that_users_get():
    tree = ast.parse(Path(sattxt.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    declared = {alias.name: node.module for node in imports for alias in node.names}
    assert {*declared, "SatTxtError", "__version__"} == set(sattxt.__all__)
    for name, module in declared.items():
        assert getattr(sattxt, name) is getattr(import_module(module), name)
        assert getattr(sattxt, name).__module__ == module  # its one address


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith("Error")])
def test_every_error_has_an_exit_code_of_its_kind(name):
    kind = getattr(errors, name)
    error = kind("geo", "rasterio", "this") if kind is errors.MissingExtraError else kind("what is wrong")
    code, words = exits.explain(error)
    assert code in (exits.USAGE, exits.MODEL, exits.MACHINE)
    assert words
    assert "\n" not in words


def test_exit_codes_are_in_the_docs():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in exits.MEANINGS.items():
        assert f"| {code} | {meaning} |" in page


def test_every_command_is_in_the_docs():
    from sattxt.cli.app import COMMANDS

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, (module, _, _) in COMMANDS.items():
        assert f"\n## sattxt {name}" in page, name
        assert hasattr(import_module(module), "app")


def test_the_manifest_at_the_top_is_the_packaged_one():
    packaged = Path(sattxt.__file__).parent / "weights" / "weights_manifest.json"
    assert packaged.read_bytes() == (ROOT / "weights_manifest.json").read_bytes()
    assert "sattxt-mini" in json.dumps(json.loads(packaged.read_text(encoding="utf-8")))


def test_the_package_is_typed_and_licensed():
    assert (Path(sattxt.__file__).parent / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "DINOv3" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_machine():
    """Paths of a developer's machine mean nothing to anyone else. Only .ci/run may look beside the checkout."""
    forbidden = [f"/{name}/".encode() for name in ("work", "home", "root", "Users")] + [b"../" + b"shared"]
    found = [
        f"{path.relative_to(ROOT)}: {text.decode()}"
        for path in tracked_files()
        if path.relative_to(ROOT).as_posix() != ".ci/run"
        for text in forbidden
        if text in path.read_bytes()
    ]
    assert found == []


def test_no_training_data_is_tracked():
    kinds = {".zip", ".jsonl", ".parquet", ".npz", ".tar", ".gz"}
    found = [path.name for path in tracked_files() if path.suffix in kinds or path.stat().st_size > 45_000_000]
    assert found == []
