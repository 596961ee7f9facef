"""ForestNet, written small."""

from __future__ import annotations

import pytest
from tile_files import write_png

from sattxt.data.registry import open_data
from sattxt.errors import InputError


def test_forestnet_in_12_and_4_classes(tmp_path):
    root = tmp_path / "deep" / "downloads" / "ForestNetDataset"
    write_png(root / "examples" / "-1.0_104.0" / "images" / "visible" / "composite.png")
    header = "label,merged_label,latitude,longitude,year,example_path\n"
    (root / "test.csv").parent.mkdir(parents=True, exist_ok=True)
    (root / "test.csv").write_text(header + "Timber plantation,Plantation,-1.0,104.0,2014,examples/-1.0_104.0\n")
    twelve, four = (open_data(tmp_path, name).split("test") for name in ("forestnet", "forestnet-4"))
    assert twelve.classes[twelve.targets[0]] == "Timber plantation"
    assert len(twelve.classes) == 12
    assert four.classes[four.targets[0]] == "Plantation"
    with (root / "val.csv").open("w") as file:
        file.write(header + "Mining,Other,0,0,2014,examples/0_0\n")
    with pytest.raises(InputError, match=r"0_0/images/visible/composite\.png is not in"):
        open_data(tmp_path, "forestnet")
