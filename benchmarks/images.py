"""Image throughput and peak memory: ViT-L/16 against the reference and CLIP, sattxt-mini over tile and batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import machine, models
from benchmarks.flops import vision_tower
from benchmarks.isolate import isolated
from benchmarks.peers import Reference, clip_tower
from benchmarks.settings import Result, Settings
from benchmarks.timing import Case, Series, alternate, expected_seconds, speedup
from sattxt import SatTxt

_LOOPED = 2  # images of the reference's one-at-a-time loop per sample
_CASES = ("imports only", "mini", "vitl ours", "reference", "clip")


def run(**arguments: Any) -> dict[str, Any]:
    """All of it, as a :class:`Result` in JSON form."""
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    result = Result("images", settings.device)
    _vitl(settings, result)
    with models.small_model(settings) as (location, name):
        _mini(settings, result, location, name)
        _memory(settings, result, location, name)
    return result.to_dict()


def tiles(count: int, side: int) -> list[np.ndarray]:
    """(side, side, 3) uint8 tiles with structure at several scales."""
    from PIL import Image

    random = np.random.default_rng(side)
    coarse = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    smooth = [Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC) for tile in coarse]
    noise = random.integers(-12, 13, (count, side, side, 3))
    return [np.clip(np.asarray(s) + n, 0, 255).astype(np.uint8) for s, n in zip(smooth, noise, strict=True)]


def _vitl(settings: Settings, result: Result) -> None:
    device, sync = settings.device, machine.synchroniser(settings.device)
    config = models.vitl16_config(settings.size)
    pixels = config.image.size
    native = machine.bfloat16_is_native(device)
    ours = {"ours bfloat16": models.in_memory(config, torch.bfloat16, device)} if native else {}
    ours["ours float32"] = models.in_memory(config, torch.float32, device)
    reference = models.without_init(lambda: Reference(config.vision))
    reference.load_state_dict(models.tower(ours["ours float32"]).state_dict())
    reference.to(device)
    clip, clip_name, clip_operations = clip_tower(settings.size, pixels)
    clips = {"CLIP ViT-L/14 float32": clip.to(device)}
    if native:
        clips["CLIP ViT-L/14 bfloat16"] = clip_tower(settings.size, pixels)[0].to(device=device, dtype=torch.bfloat16)
    else:
        result.notes.append(machine.without_bfloat16(device))
    result.notes.append(f"CLIP: {clip_name}; random weights, pixel values ready")
    result.notes.append(
        "ours: SatTxt.encode_image on 8-bit arrays, preprocessing included; reference and CLIP: their forward alone, "
        "on pixel values that are ready"
    )
    _same_values(ours["ours float32"], reference, tiles(1, pixels))

    side = settings.pick(4096, 2048, 128)
    dtypes = (torch.bfloat16, torch.float32) if native else (torch.float32,)
    products = {_name(dtype): machine.matmul_case(device, dtype, side=side) for dtype in dtypes}
    operations = vision_tower(config.vision, pixels)
    series: dict[str, Series] = {}
    rows: list[dict[str, Any]] = []
    rates: list[dict[str, Any]] = []
    best = {"speedup": 0.0, **dict.fromkeys(products, 0.0)}
    for batch in settings.pick((1, 4, 16, 64), (1, 8), (1, 2)):
        arrays = tiles(batch, pixels)
        ready = torch.cat([ours["ours float32"].vision.preprocess(tile) for tile in arrays]).to(device)
        cases: dict[str, Case] = {name: Case(_encode(model, arrays, batch), batch) for name, model in ours.items()}
        cases["reference float32, same batch"] = Case(_forward(reference, ready), batch)
        single = [ready[i % batch : i % batch + 1] for i in range(_LOOPED)]
        cases["reference float32, one by one"] = Case(_loop(reference, single), _LOOPED)
        for name, tower in clips.items():
            cases[name] = Case(_forward(tower, ready.to(next(tower.parameters()).dtype)), batch)
        cases |= {f"matrix product {dtype}": product for dtype, (product, _) in products.items()}
        expected = expected_seconds(cases, series)
        if expected > settings.most_seconds:
            result.notes.append(f"ViT-L/16, batch {batch}: left out, two rounds would take {expected / 60:.0f} minutes")
            continue
        series = alternate(cases, rounds=settings.pick(7, 3, 1), budget=settings.budget, sync=sync)
        peaks = {dtype: count / series[f"matrix product {dtype}"].seconds for dtype, (_, count) in products.items()}
        rates.append({"batch": batch, **{f"{dtype} GFLOP/s": peak / 1e9 for dtype, peak in peaks.items()}})
        base = series["reference float32, same batch"]
        for name in cases:
            if name.startswith("matrix"):
                continue
            done = (clip_operations if name.startswith("CLIP") else operations) * series[name].rate
            own = "bfloat16" if "bfloat16" in name else "float32"
            rows.append(
                {
                    "batch": batch,
                    "case": name,
                    "images/s": series[name].rate,
                    "ms/image": 1e3 * series[name].seconds,
                    "CPU ms/image": 1e3 * series[name].cpu_seconds,
                    "× reference": speedup(base, series[name]),
                    **({"share of bf16 product": done / peaks["bfloat16"]} if native else {}),
                    "share of own product": done / peaks[own],
                    "spread": series[name].spread,
                }
            )
        for dtype, peak in peaks.items():
            best[dtype] = max(best[dtype], operations * series[f"ours {dtype}"].rate / peak)
        if native:
            best["speedup"] = max(best["speedup"], speedup(base, series["ours bfloat16"]))
        shown = [row for row in rows if row["batch"] == batch]
        result.panel(
            f"ViT-L/16 at {pixels}, batch {batch}, {device}",
            "× the float32 reference, same batch",
            [(row["case"], row["× reference"]) for row in shown],
        )
    result.tables[f"ViT-L/16 at {pixels} px ({operations / 1e9:.4g} GFLOP an image)"] = rows
    result.tables[f"Matrix products measured in the same rounds ({side} x {side})"] = rates
    if native:
        result.goal("ViT-L/16 bfloat16 against the float32 reference (goal set for AMX)", 4, best["speedup"], unit="×")
    for dtype in products:
        result.goal(f"ViT-L/16 {dtype}, share of the {dtype} matrix product", 0.6, best[dtype])


def _mini(settings: Settings, result: Result, location: str, name: str) -> None:
    device, sync = settings.device, machine.synchroniser(settings.device)
    native = machine.bfloat16_is_native(device)
    opened = {
        dtype: SatTxt.from_pretrained(location, backend="torch", dtype=dtype, device=device, text_cache=False)
        for dtype in (("float32", "bfloat16") if native else ("float32",))
    }
    chosen_by_auto = SatTxt.from_pretrained(location, backend="torch", device=device, text_cache=False)
    automatic = str(chosen_by_auto.dtype).removeprefix("torch.")
    result.notes.append(f"{name}: dtype='auto' of torch takes {automatic} on this {device}")
    pixels = opened["float32"].config.image.size
    operations = vision_tower(opened["float32"].config.vision, pixels)
    product, product_operations = machine.matmul_case(device, torch.float32, side=settings.pick(2048, 2048, 128))
    rows: list[dict[str, Any]] = []
    fastest: dict[str, float] = {}
    sides = settings.pick((64, 96, 128, 192, 256), (64, 128, 256), (64,))
    for side in sides:
        for batch in settings.pick((1, 4, 16, 64), (1, 64), (1, 4)):
            if side not in (sides[0], sides[-1]) and batch not in (1, 64):
                continue
            arrays = tiles(batch, side)
            cases: dict[str, Case] = {}
            for dtype, model in opened.items():
                cases[dtype] = Case(_encode(model, arrays, batch), batch)
                ready = model.vision.preprocess(arrays).to(device)
                cases[f"{dtype} tower"] = Case(_tower(model, ready), batch)
            cases["preprocessing"] = Case(_preprocess(opened["float32"], arrays), batch)
            cases["product"] = Case(product.run)
            series = alternate(
                cases,
                rounds=settings.pick(9, 5, 1),
                min_seconds=settings.pick(0.3, 0.1, 0.0),
                budget=_quarter(settings.budget),
                sync=sync,
            )
            peak = product_operations / series["product"].seconds
            chosen = series[automatic]
            rows.append(
                {
                    "tile px": side,
                    "batch": batch,
                    **{f"{dtype} images/s": series[dtype].rate for dtype in opened},
                    **({"bfloat16 × float32": speedup(series["float32"], series["bfloat16"])} if native else {}),
                    f"tower alone ({automatic}) images/s": series[f"{automatic} tower"].rate,
                    "encode_image, share of tower rate": speedup(series[f"{automatic} tower"], chosen),
                    "preprocessing images/s": series["preprocessing"].rate,
                    "tower float32, share of float32 product": operations * series["float32 tower"].rate / peak,
                    "spread": chosen.spread,
                }
            )
            if batch == 64 or settings.size == "tiny":
                fastest[f"{side} px"] = chosen.rate
    result.tables[f"{name} ({operations / 1e9:.4g} GFLOP an image at {pixels} px)"] = rows
    result.panel(f"{name}, encode_image by tile size, batch 64, {device}", "images/s", list(fastest.items()))
    result.goal(f"{name}: encode_image, tiles/s on {machine.usable_cores()} cores", 400, max(fastest.values()))


def _memory(settings: Settings, result: Result, location: str, name: str) -> None:
    batch, large = settings.pick(64, 8, 2), settings.pick(16, 8, 2)
    listed = [
        ("imports only (torch, sattxt)", "imports only", "float32", 1),
        (f"{name} float32, batch 1", "mini", "float32", 1),
        (f"{name} float32, batch {batch}", "mini", "float32", batch),
        (f"{name} bfloat16, batch {batch}", "mini", "bfloat16", batch),
        ("ViT-L/16 ours bfloat16, batch 1", "vitl ours", "bfloat16", 1),
        (f"ViT-L/16 ours bfloat16, batch {large}", "vitl ours", "bfloat16", large),
        (f"ViT-L/16 ours float32, batch {large}", "vitl ours", "float32", large),
        (f"ViT-L/16 reference float32, batch {large}", "reference", "float32", large),
        (f"CLIP ViT-L/14 float32, batch {large}", "clip", "float32", large),
    ]
    if settings.size == "tiny":
        listed = [listed[0], listed[2], listed[6]]
    if not machine.bfloat16_is_native(settings.device):
        listed = [row for row in listed if row[2] != "bfloat16"]
    measured = {
        label: isolated(
            "benchmarks.images:memory", case=case, dtype=dtype, batch=count, location=location, **settings.to_dict()
        )
        for label, case, dtype, count in listed
    }
    compared = next((v["peak"] for k, v in measured.items() if "reference" in k), None)
    result.tables["Peak memory, each case in its own process"] = [
        {
            "case": label,
            "peak MB": values["peak"] / 1e6,
            "weights MB": values["weights"] / 1e6,
            "device MB": values["device"] / 1e6,
            "× reference": values["peak"] / compared if compared and "ViT" in label else "",
        }
        for label, values in measured.items()
    ]
    highest = max(values["peak"] for label, values in measured.items() if label.startswith(name))
    result.goal(f"{name}: peak memory", 1.0, highest / 1e9, at_least=False, unit=" GB")
    result.notes.append(
        "peak memory: high-water mark of the resident set; random ViT-L weights are made in float32 first"
    )


def memory(case: str, dtype: str, batch: int, location: str, **arguments: Any) -> dict[str, float]:
    """Peak bytes of one case; runs in a process of its own."""
    if case not in _CASES:
        raise ValueError(f"case={case!r}: one of {_CASES}")
    settings = Settings(**arguments)
    machine.apply_threads(settings.threads)
    precision = getattr(torch, dtype)
    weights = 0
    if case != "imports only":
        config = models.vitl16_config(settings.size)
        pixels = config.image.size
        arrays = tiles(batch, 64 if case == "mini" else pixels)
        tower: torch.nn.Module
        call: Callable[[], object]
        if case in ("mini", "vitl ours"):
            model = (
                SatTxt.from_pretrained(location, dtype=dtype, device=settings.device, text_cache=False)
                if case == "mini"
                else models.in_memory(config, precision, settings.device)
            )
            tower, call = models.tower(model), _encode(model, arrays, batch)
        else:
            if case == "reference":
                tower = models.without_init(lambda: Reference(config.vision))
                models.fill(tower)
            else:
                tower = clip_tower(settings.size, pixels)[0]
            tower.to(device=settings.device, dtype=precision)
            stacked = np.stack(arrays).transpose(0, 3, 1, 2)
            call = _forward(tower, torch.from_numpy(stacked.copy()).to(device=settings.device, dtype=precision))
        for _ in range(3 if case == "mini" else 1):
            call()
        weights = sum(p.numel() * p.element_size() for p in tower.parameters())
    device = torch.cuda.max_memory_allocated() if settings.device == "cuda" else 0
    return {"peak": machine.peak_bytes(), "weights": weights, "device": device}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _quarter(budget: float | None) -> float | None:
    """There are many rows of the small model, each of them quick."""
    return None if budget is None else budget / 4


def _same_values(model: SatTxt, reference: Reference, arrays: list[np.ndarray]) -> None:
    """A comparison of speed means nothing unless both compute the same."""
    with torch.inference_mode():
        wanted = reference(model.vision.preprocess(arrays).to(model.device)).float().cpu().numpy()
    got = np.asarray(model.encode_image(arrays, normalize=False))
    worst = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    if not worst < 1e-3:
        raise RuntimeError(f"ours and the plain reference differ by {worst:.2e} (relative); the benchmark is void")


def _encode(model: SatTxt, arrays: list[np.ndarray], batch: int) -> Callable[[], object]:
    return lambda: model.encode_image(arrays, batch_size=batch)


def _preprocess(model: SatTxt, arrays: list[np.ndarray]) -> Callable[[], object]:
    return lambda: model.vision.preprocess(arrays)


def _tower(model: SatTxt, ready: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            models.image_pass(model, ready)

    return run


def _forward(tower: torch.nn.Module, ready: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            tower(ready)

    return run


def _loop(tower: torch.nn.Module, singles: list[torch.Tensor]) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            for one in singles:
                tower(one)

    return run
