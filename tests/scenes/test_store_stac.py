"""The JSON beside the parts, by the rules of STAC 1.0.0, the embeddings extension v0.0.1 and the MLM extension v1.5."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from store_files import add_item, make_store, settings, squares, unit_vectors, write_scene

from sattxt import SatTxt
from sattxt.scenes import Store
from sattxt.scenes.records import ItemRecord, PartRecord, file_name, read_item, write_item

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
MOMENT = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
PAIR = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2}
LINK = {"type": "object", "required": ["rel", "href"], "properties": {"rel": TEXT, "href": TEXT}}


def fields(known: dict[str, Any], prefix: str, required: list[str]) -> dict[str, Any]:
    """An object in which of one prefix only ``known`` fields stand."""
    return {
        "type": "object",
        "required": required,
        "properties": known,
        "patternProperties": {f"^(?!{prefix})": {}},
        "additionalProperties": False,
    }


def linked(*relations: str) -> dict[str, Any]:
    each = [{"contains": {"properties": {"rel": {"const": relation}}}} for relation in relations]
    return {"type": "array", "items": LINK, "allOf": each}


PROCESSING = {"type": "object", "required": ["format", "expression"]}
ITEM = {
    "type": "object",
    "required": ["type", "stac_version", "stac_extensions", "id", "geometry", "properties", "links", "assets"],
    "properties": {
        "type": {"const": "Feature"},
        "stac_version": {"const": "1.0.0"},
        "stac_extensions": {"contains": {"const": "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"}},
        "links": linked("collection", "emb:source-data"),
        "properties": fields(
            {
                "emb:runtime_parameters": {"type": "object"},
                "emb:preprocessing": PROCESSING,
                "emb:postprocessing": PROCESSING,
                "emb:quantization": {"type": "object", "required": ["method", "original_dtype"]},
            },
            "emb:",
            ["datetime", "processing:datetime"],
        )
        | {"dependentRequired": {"start_datetime": ["end_datetime"], "end_datetime": ["start_datetime"]}},
        "assets": {
            "required": ["embeddings"],
            "additionalProperties": fields({}, "emb:", ["href", "type", "roles"]),
        },
    },
    "if": {"properties": {"geometry": {"type": "object"}}},
    "then": {"required": ["bbox"]},
}
COLLECTION = fields(
    {
        "emb:type": {"const": "chip"},
        "emb:dimensions": {"type": "integer", "minimum": 1},
        "emb:chip_layout": {
            "type": "object",
            "required": ["layout_type"],
            "properties": {
                "layout_type": {"enum": ["regular_grid", "variable_grid", "named_grid"]},
                "chip_size": PAIR,
                "stride": PAIR,
                "grid_id": TEXT,
            },
            "additionalProperties": False,
        },
        "emb:temporal_resolution": TEXT,
        "emb:fit_for_use": {"type": "array", "items": TEXT},
    },
    "emb:",
    ["type", "id", "description", "license", "extent", "links", "emb:type", "emb:dimensions", "data_type"],
) | {
    "allOf": [
        {
            "properties": {
                "type": {"const": "Collection"},
                "license": {"pattern": r"^[\w\-\.\+]+$"},
                "data_type": {"enum": ["float16", "int8"]},
                "gsd": {"type": "number"},
                "links": linked("emb:model", "emb:source-data"),
                "extent": {
                    "properties": {
                        "spatial": {"properties": {"bbox": {"items": {"minItems": 4, "maxItems": 4}}}},
                        "temporal": {"properties": {"interval": {"items": {"prefixItems": [MOMENT, MOMENT]}}}},
                    }
                },
            }
        }
    ]
}
STRUCTURE = {"required": ["shape", "dim_order", "data_type"]}
MODEL = {
    "required": ["type", "id", "properties", "assets", "links", "geometry"],
    "properties": {
        "stac_extensions": {
            "contains": {"pattern": r"^https://stac-extensions\.github\.io/mlm/v1\.5(\.\d+)?/schema\.json$"}
        },
        "properties": {
            "required": ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output", "eo:bands"],
            "properties": {
                "mlm:name": {"pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
                "mlm:framework_version": {"pattern": r"^\d+\.\d+\.\d+(\+[0-9a-zA-Z.-]+)?$"},
                "mlm:tasks": {
                    "items": {"enum": ["similarity-search", "scene-classification", "semantic-segmentation"]}
                },
                "mlm:input": {
                    "items": {
                        "required": ["name", "input"],
                        "properties": {
                            "bands": {"items": TEXT, "minItems": 1},
                            "input": STRUCTURE | {"properties": {"dim_order": {"contains": {"const": "bands"}}}},
                            "value_scaling": {"items": {"required": ["type", "mean", "stddev"]}},
                        },
                    }
                },
                "mlm:output": {"items": {"required": ["name", "tasks", "result"], "properties": {"result": STRUCTURE}}},
            },
        },
        "assets": {
            "additionalProperties": {
                "required": ["mlm:artifact_type"],
                "properties": {"roles": {"contains": {"const": "mlm:model"}}},
            }
        },
    },
}


def check(path: Path, rules: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    jsonschema.validate(found, rules, cls=jsonschema.Draft202012Validator)
    return found


@pytest.mark.parametrize("stored", ["float16", "int8"])
@pytest.mark.parametrize("grid", ["utm", "majortom"])
def test_what_lies_beside_the_parts(tmp_path: Path, model: SatTxt, stored: Any, grid: Any) -> None:
    store = Store.create(tmp_path / "store", model, chip=32, store=stored, grid=grid, grid_km=0.32)
    check(tmp_path / "store" / "collection.json", COLLECTION)
    store.add([write_scene(tmp_path / "dated.tif"), write_scene(tmp_path / "undated.tif", when=None)])
    dated = check(tmp_path / "store/items/dated.json", ITEM)
    undated = check(tmp_path / "store/items/undated.json", ITEM)
    assert dated["properties"]["datetime"] == "2024-05-17T10:30:00Z"
    assert undated["properties"]["datetime"] is None
    for item in (dated, undated):
        for asset in item["assets"].values():
            assert (tmp_path / "store/items" / asset["href"]).is_file()
        for link in item["links"][:2]:
            assert (tmp_path / "store/items" / link["href"]).is_file()
    collection = check(tmp_path / "store/collection.json", COLLECTION)
    assert collection["emb:dimensions"] == model.embed_dim
    assert {link["href"] for link in collection["links"] if link["rel"] == "item"} == {
        "./items/dated.json",
        "./items/undated.json",
    }
    assert collection["extent"]["temporal"]["interval"][0][0] == "2024-05-17T10:30:00Z"
    described = check(tmp_path / "store/model.json", MODEL)
    assert described["properties"]["mlm:output"][0]["result"]["shape"] == [-1, model.embed_dim]


def test_an_item_comes_back_as_it_was_written(tmp_path: Path) -> None:
    start = datetime(2024, 5, 17, 10, 30, 1, 250_000, tzinfo=timezone.utc)
    for end in (start, start + timedelta(days=3)):
        parts = (PartRecord("a" * 16, "parts/x/a.parquet", 3), PartRecord("b" * 16, "parts/x/b.parquet", 0))
        record = ItemRecord("x", "s3://b/x y.tif", "s", start, end, (1.0, 2.0, 3.0, 4.0), parts)
        assert read_item(write_item(record, settings(), squares(3), 10.0), "x") == record


def test_items_over_the_antimeridian_are_in_two_pieces(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", items=0)
    rings = squares(20, west=179.9, east=179.999, side=0.05)
    add_item(store, "far", unit_vectors(20), rings, None)
    item = check(tmp_path / "store/items/far.json", ITEM)
    assert item["geometry"]["type"] == "MultiPolygon"
    west, east = ([point[0] for point in ring[0]] for ring in item["geometry"]["coordinates"])
    assert max(west) <= -179.9
    assert min(east) >= 179.9
    assert np.allclose(item["bbox"][::2], [-180, 180])


@pytest.mark.parametrize("name", ["../../etc", "a/b", "ünïcode", "", ".hidden", "x" * 300, "con#1"])
def test_no_id_leaves_its_folder(name: str) -> None:
    made = file_name(name)
    assert made == Path(made).name
    assert not made.startswith(".")
    assert len(made.encode()) < 200
    assert made != file_name(name + "!")
