"""JSON files of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sattxt.errors import WeightsError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; :class:`WeightsError` names the file if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: holds {type(data).__name__}, an object is needed")
    return data
