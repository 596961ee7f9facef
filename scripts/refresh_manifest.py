#!/usr/bin/env python3
"""Write sizes and hashes of the bundled models into weights_manifest.json, copy it to the top of the repository, and
write the models' cards from it.

Run it after a bundled model or the manifest changed: .venv/bin/python scripts/refresh_manifest.py
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "sattxt" / "weights"


def main() -> None:
    """Update every entry whose files are in the package."""
    path = WEIGHTS / "weights_manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    present: set[Path] = set()
    for model in manifest["models"]:
        for part in model["components"]:
            if part["source"] != "bundled":
                continue
            folder = WEIGHTS / "bundled" / part["location"]
            config = folder / "config.json"
            if not config.is_file():
                print(f"{folder} holds no model, left as it is")
                break
            present.add(folder)
            stored = json.loads(config.read_text(encoding="utf-8"))
            model["embed_dim"], model["image_size"] = stored["embed_dim"], stored["image"]["size"]
            model["preprocessing"] = stored["image"]["preset"]
            for item in part["files"]:
                data = (folder / item["name"]).read_bytes()
                item["bytes"], item["sha256"] = len(data), hashlib.sha256(data).hexdigest()
                print(f"{item['name']}: {len(data)} bytes")
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(path, ROOT / "weights_manifest.json")
    write_cards(present)


def write_cards(folders: Iterable[Path]) -> None:
    """The README.md of every bundled model, from its config and the manifest, and its checksums."""
    from sattxt.config import ModelConfig
    from sattxt.weights.checksums import write_sums
    from sattxt.weights.manifest import model_card  # not before the manifest is written, which is read once

    for folder in sorted(folders):
        (folder / "README.md").write_text(model_card(ModelConfig.read(folder / "config.json")), encoding="utf-8")
        write_sums(folder)


if __name__ == "__main__":
    main()
