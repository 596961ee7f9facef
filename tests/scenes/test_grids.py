"""Grids: names that are the same at every date, ESA's own names, the Hilbert curve, the antimeridian."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasters import METRES, NORTH, WEST, write_raster

from sattxt.errors import InputError, SceneError
from sattxt.scenes.grids import hilbert_place, plan_chips
from sattxt.scenes.open import open_scenes


@settings(max_examples=20, deadline=None)
@given(east=st.integers(-40, 40), south=st.integers(-40, 40), fraction=st.floats(-4.9, 4.9))
def test_the_same_ground_has_the_same_cell_in_every_scene(
    east: int, south: int, fraction: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("g")
    moved = Affine(METRES, 0, WEST + 10 * east + fraction, 0, -METRES, NORTH - 10 * south + fraction)
    first, other = (
        plan_chips(open_scenes(write_raster(folder / name, transform=at))[0], "utm", 16, 16)
        for name, at in (("a.tif", None), ("b.tif", moved))
    )
    common = set(first.cell) & set(other.cell)
    assert common
    for cell in common:
        one, two = (c.corners[c.cell.index(cell)] for c in (first, other))
        assert np.abs(one - two).max() < 6 / 78_000  # degrees: less than a pixel, to which origins snap


def test_utm_cells_are_named_for_their_south_west_corner(tmp_path: Path) -> None:
    at = Affine(METRES, 0, 640 * 969, 0, -METRES, 640 * 8484)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", 128, 128, transform=at))
    chips = plan_chips(scene, "utm", 64, 64)
    assert sorted(chips.cell) == [f"32633/640/{i}_{j}" for i in (969, 970) for j in (8482, 8483)]
    place = chips.cell.index("32633/640/969_8482")
    assert chips.pixel_bbox[place].tolist() == [0, 64, 64, 128]
    assert len(plan_chips(scene, "utm", 64, 32)) == 9


def test_major_tom_cells_have_esas_names(tmp_path: Path) -> None:
    # row and column of Major TOM's own sample cell, whose lower left corner its image starts from
    at = Affine(10, 0, 362612.19685932994, 0, -10, 1987088.206431803)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", 1068, 1068, crs="EPSG:32648", transform=at))
    chips = plan_chips(scene, "majortom", 1000, 1000)
    assert chips.cell == ["199U_1099R"]
    fine = plan_chips(scene, "majortom", 64, 64)
    assert {cell.rsplit("_", 2)[0] for cell in fine.cell} >= {"199U_1099R"}
    assert sum(cell.startswith("199U_1099R_") for cell in fine.cell) == 256


@pytest.mark.parametrize("latitude", [-61.7, -5.2, 0.03, 12.0, 48.5, 71.3])
@pytest.mark.parametrize("longitude", [-179.93, -60.0, -0.02, 0.02, 33.3, 179.9])
def test_major_tom_rows_and_columns_are_counted_from_the_equator_and_greenwich(
    latitude: float, longitude: float, tmp_path: Path
) -> None:
    degrees = 0.09
    at = Affine(degrees / 60, 0, longitude, 0, -degrees / 60, latitude + degrees)
    path = write_raster(tmp_path / "s.tif", 60, 60, crs="EPSG:4326", transform=at)
    chips = plan_chips(open_scenes(path)[0], "majortom", 60, 60, grid_km=10)
    # the formulas of Major TOM (arXiv 2402.12095, section 3)
    height = 180 / np.ceil(np.pi * 6378.137 / 10)
    for cell, ring in zip(chips.cell, chips.corners, strict=True):
        middle = ring[:4].mean(axis=0)
        row = int(np.floor(middle[1] / height))
        width = 360 / np.ceil(2 * np.pi * 6378.137 * np.cos(np.radians(row * height)) / 10)
        column = int(np.floor(middle[0] / width))
        assert cell.split("_")[:2] == [
            f"{abs(row)}{'U' if row >= 0 else 'D'}",
            f"{abs(column)}{'R' if column >= 0 else 'L'}",
        ]


def test_a_scene_in_degrees_takes_major_tom_where_utm_is_asked_for(tmp_path: Path) -> None:
    at = Affine(9e-5, 0, -0.78, 0, -9e-5, 38.12)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", 512, 512, crs="EPSG:4326", transform=at))
    chips = plan_chips(scene, "utm", 64, 64)
    assert len(chips) > 40
    assert all(cell.split("_")[0].endswith("U") for cell in chips.cell)


@pytest.mark.parametrize("grid", ["majortom", "quadkey"])
def test_cells_go_round_the_antimeridian(grid: str, tmp_path: Path) -> None:
    at = Affine(METRES, 0, 812_000, 0, -METRES, 8_000_000)  # zone 60 south, across 180 degrees
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", 1200, 300, crs="EPSG:32760", transform=at))
    chips = plan_chips(scene, grid, 64, 64)
    middles = chips.corners[:, 0, 0]
    assert (middles > 179.9).any()
    assert (middles < -179.9).any()
    assert len(set(chips.cell)) == len(chips.cell)
    assert np.abs(chips.corners[..., 0]).max() <= 180


def test_the_hilbert_curve_visits_each_place_once_and_neighbours_in_turn() -> None:
    side = 8
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    points = np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5
    order = np.argsort(hilbert_place(points / side * [360, 180] - [180, 90]))
    steps = np.abs(np.diff(points[order], axis=0)).sum(axis=1)
    assert (steps == 1).all()


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    (scene,) = open_scenes(write_raster(tmp_path / "s.png", crs=None, transform=Affine.identity(), driver="PNG"))
    with pytest.raises(SceneError, match="no georeference"):
        plan_chips(scene, "utm", 64, 64)
    chips = plan_chips(scene, "pixels", 64, 64)
    assert sorted(chips.cell) == sorted(f"r{r}_c{c}" for r in (0, 64, 66) for c in (0, 64, 86))
    assert np.isnan(chips.corners).all()
    (placed,) = open_scenes(tmp_path / "s.png", crs="EPSG:4326", bounds=(-180, -90, 180, 90))
    chips = plan_chips(placed, "pixels", 64, 64)
    assert chips.corners[chips.cell.index("r0_c0"), 0].tolist() == [-180.0, 90.0]
    with pytest.raises(SceneError, match="150 x 130 pixels, smaller than a chip of 256"):
        plan_chips(scene, "pixels", 256, 256)
    with pytest.raises(InputError, match="grid='h3'"):
        plan_chips(scene, "h3", 64, 64)


@pytest.mark.parametrize(("latitude", "west", "cell"), [(37.16, 180.2, "41U_161R"), (37.16, -179.9, "41U_161R")])
def test_the_cell_at_180_degrees_has_the_name_that_esas_code_rounds_to(
    latitude: float, west: float, cell: str, tmp_path: Path
) -> None:
    # Row 41 has 322 columns. ESA's Grid(100) lays the one at 180 degrees a rounding error to the west of it.
    lattice = np.sort(np.mod(np.linspace(-180, 180, 323)[:-1], 360) - 180)
    assert lattice[-1] > 179.99
    step = 100 / 111.2 / 64
    at = Affine(step, 0, west - 20 * step, 0, -step, latitude + 50 * step)
    (scene,) = open_scenes(write_raster(tmp_path / "s.tif", 200, 100, crs="EPSG:4326", transform=at))
    assert cell in plan_chips(scene, "majortom", 64, 64, grid_km=100).cell


@settings(max_examples=25, deadline=None)
@given(latitude=st.floats(-75, 75), longitude=st.floats(-179, 178), grid_km=st.sampled_from([5, 10, 25]))
def test_major_toms_cells_are_those_of_the_earth_genome_package(
    latitude: float, longitude: float, grid_km: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shapely, majortom_eg = pytest.importorskip("shapely"), pytest.importorskip("majortom_eg")
    step = grid_km / 111.2 / 32
    at = Affine(step, 0, longitude, 0, -step, latitude + 48 * step)
    path = write_raster(tmp_path_factory.mktemp("m") / "s.tif", 96, 96, crs="EPSG:4326", transform=at)
    chips = plan_chips(open_scenes(path)[0], "majortom", 32, 32, grid_km=grid_km)
    theirs = majortom_eg.MajorTomGrid(grid_km * 1000, overlap=False)
    found = 0
    for cell, ring in zip(chips.cell, chips.corners, strict=True):
        if cell.count("_") > 1 or abs(ring[:4, 0].mean()) > 179:
            continue
        x, y = ring[:4].mean(axis=0)
        (box,) = {
            each.geom.bounds
            for each in theirs.generate_grid_cells(shapely.box(x, y, x + 1e-9, y + 1e-9))
            if each.geom.buffer(-step).contains(shapely.Point(x, y))
        }
        assert np.allclose([x, y], [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=0.51 * step)
        row, column = (int(part[:-1]) * (-1 if part[-1] in "DL" else 1) for part in cell.split("_"))
        assert np.allclose([box[0], box[1]], [column * (box[2] - box[0]), row * (box[3] - box[1])], atol=1e-9)
        found += 1
    assert found or chips.cell


def test_scenes_in_degrees_share_their_cells_whatever_they_cover(tmp_path: Path) -> None:
    step = 9e-5
    cells = []
    for name, rows in (("a", 600), ("b", 3000)):
        at = Affine(step, 0, 20.0, 0, -step, 48.0)
        (scene,) = open_scenes(write_raster(tmp_path / f"{name}.tif", 300, rows, crs="EPSG:4326", transform=at))
        chips = plan_chips(scene, "majortom", 64, 64)
        cells.append({c: tuple(box) for c, box in zip(chips.cell, chips.pixel_bbox.tolist(), strict=True)})
    small, large = cells
    assert len(small) > 20
    assert all(large[cell] == box for cell, box in small.items() if box[3] <= 600)


def test_cells_that_are_finer_than_a_chip_are_refused_and_latitudes_end_at_the_poles(tmp_path: Path) -> None:
    at = Affine(1.0, 0, -180, 0, -1.0, 90)
    (world,) = open_scenes(write_raster(tmp_path / "w.tif", 360, 180, crs="EPSG:4326", transform=at))
    with pytest.raises(SceneError, match="km wide, a cell of the grid 10 km; pass grid_km="):
        plan_chips(world, "utm", 30, 30)
    chips = plan_chips(world, "majortom", 30, 30, grid_km=3000)
    assert (chips.pixel_bbox < 0).any()
    assert np.abs(chips.corners[..., 1]).max() <= 90
