"""Damaged copies of sound files, each made from a seed alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml

#: Values that readers of sizes and counts trip over.
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, seed: int) -> bytes:
    """``data`` with one to four faults: bits, bytes, numbers, pieces cut out, repeated, swapped, or the end missing."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if not changed:
            break
        # half of the faults go to the first kilobyte, where headers are
        reach = min(len(changed), 1024) if chance.random() < 0.5 else len(changed)
        at = chance.randrange(reach)
        length = chance.randint(1, max(1, min(64, len(changed) - at)))
        match chance.randrange(7):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + length] = chance.randbytes(length)
            case 2:
                width = chance.choice((1, 2, 4))
                value = chance.choice(_EXTREMES) & ((1 << 8 * width) - 1)
                changed[at : at + width] = value.to_bytes(width, chance.choice(("little", "big")))
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * chance.randint(1, 4)
            case 5:
                other = chance.randrange(len(changed))
                changed[at : at + length], changed[other : other + length] = (
                    changed[other : other + length],
                    changed[at : at + length],
                )
            case 6:
                del changed[at:]
    return bytes(changed)


#: What may stand where another value stood.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 0.0, 0.5, -1.5, 1e308),
    *(float("nan"), float("inf"), "", " ", "\0", "../../etc/passwd", "float32", "x" * 5000, "٣", "1", [], {}),
    *([None], [1, 2, 3], {"a": 1}, [[[[[[[[1]]]]]]]]),
)


def mutate_document(document: Any, seed: int) -> Any:
    """A parsed JSON or YAML document with one to three values replaced, removed, renamed or repeated."""
    chance = random.Random(seed)
    changed = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(changed))
        if not places:
            return chance.choice(_VALUES)
        parent, key = chance.choice(places)
        match chance.randrange(4):
            case 0 | 1:
                parent[key] = copy.deepcopy(chance.choice(_VALUES))
            case 2:
                del parent[key]
            case 3 if isinstance(parent, dict):
                parent[f"{key}{chance.choice(('_', 's', ' ', '2'))}"] = parent.pop(key)
            case 3:
                parent.append(copy.deepcopy(parent[key]))
    return changed


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def damage(data: bytes, suffix: str, seed: int) -> bytes:
    """A damaged copy of a file's content; every second one of a document (or of a header of tensors) still parses."""
    if seed % 2 == 0:
        if suffix == ".json":
            return json.dumps(mutate_document(json.loads(data), seed)).encode()
        if suffix == ".yaml":
            return yaml.safe_dump(mutate_document(yaml.safe_load(data), seed)).encode()
        if suffix == ".safetensors":
            size = int.from_bytes(data[:8], "little")
            header = json.dumps(mutate_document(json.loads(data[8 : 8 + size]), seed)).encode()
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return mutate(data, seed)
