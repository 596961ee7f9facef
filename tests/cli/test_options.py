"""Options that several commands share reach the model."""

from __future__ import annotations

from cli_fakes import sattxt


def test_image_options_reach_the_model(model, tiles):
    flags = ["--stretch", "0,4000", "--bands", "B4,3,red", "--band-names", "l2a", "--offset", "1000"]
    assert sattxt("classify", tiles, "-l", "dark,bright", "--on-error", "skip", *flags) == 1
    options = model.calls[0]["options"]
    assert (options.stretch, options.bands, options.offset) == ((0, 4000), ("B4", 3, "red"), 1000)
    assert options.band_names[:2] == ("B01", "B02")


def test_model_options_reach_the_model(model, tiles):
    flags = ["-m", "some/dir", "--device", "cpu", "--dtype", "float32", "--offline", "--batch-size", "7"]
    assert sattxt("classify", tiles, "-l", "dark,bright", *flags) == 0
    assert model.opened_with["name"] == "some/dir"
    assert model.opened_with["local_files_only"] is True
    assert model.opened_with["dtype"] == "float32"
    assert model.calls[0]["batch_size"] == 7
