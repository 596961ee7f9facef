"""The root command: help, suggestions, and which exit code which end gives."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_fakes import sattxt

from sattxt import SatTxt
from sattxt.errors import HubError, InputError, MissingExtraError, WeightsError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad argument"), 2),
        (WeightsError("damaged"), 3),
        (HubError("unreachable"), 3),
        (MissingExtraError("geo", "rasterio", "reading this"), 4),
        (PermissionError(13, "Permission denied", "x.png"), 2),
    ],
)
def test_exit_codes_of_errors(monkeypatch, tiles, capsys, error, code):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(SatTxt, "from_pretrained", fail)
    assert sattxt("classify", tiles, "-l", "a,b") == code
    err = capsys.readouterr().err
    assert err.startswith("sattxt: error: ")
    assert "Traceback" not in err
    assert sattxt("--debug", "classify", tiles, "-l", "a,b") == code
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_traceback(monkeypatch, tiles, capsys):
    monkeypatch.setattr(SatTxt, "from_pretrained", lambda *_, **__: {}["gone"])
    assert sattxt("classify", tiles, "-l", "a,b") == 70
    assert "KeyError" in capsys.readouterr().err


def test_ctrl_c_ends_quietly(monkeypatch, tiles, capsys):
    def interrupt(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SatTxt, "from_pretrained", interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may start with it ignored
    try:
        assert sattxt("classify", tiles, "-l", "a,b") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "sattxt: interrupted\n"


def test_unknown_command_is_wrong_usage_with_a_suggestion(capsys):
    assert sattxt("clasify") == 2
    assert "'classify'" in capsys.readouterr().err


def test_help_lists_commands_and_exit_codes(capsys):
    assert sattxt("--help") == 0
    out = capsys.readouterr().out
    assert "classify" in out
    assert "130  interrupted" in out


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end differently there")
def test_a_reader_that_goes_away_is_no_error():
    code = (
        "import sys, sattxt.cli.models as m; from sattxt.cli import app, output\n"
        "m.app = __import__('typer').Typer()\n"
        "m.app.command()(lambda: [output.put('x' * 1000 + chr(10)) for _ in range(5000)])\n"
        "sys.exit(app.run(['models']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
@pytest.mark.parametrize("arguments", ["models", "labels sets", "labels sets eurosat --json"])
def test_standard_output_on_a_full_disk_is_one_line(arguments):
    command = f"{sys.executable} -m sattxt {arguments} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == "sattxt: error: standard output: no space left on the disk\n"
