"""Label banks: exact files, refused when damaged, merged without contradictions, in and out of the text cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from sattxt.errors import BankMismatchError, CacheError, DiskFullError, InputError, WeightsError
from sattxt.text.label_bank import LabelBank

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def make(*texts: str, seed: int = 0, **facts: object) -> LabelBank:
    vectors = np.stack([np.random.default_rng([seed, *text.encode()]).standard_normal(6) for text in texts])
    options: dict = {"space": "abc", "model": "tiny", **facts}
    return LabelBank(texts=texts, vectors=options.pop("vectors", vectors.astype(np.float32)), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.safetensors"


# -- files ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), texts=st.lists(TEXTS, min_size=1, max_size=8, unique=True), half=st.booleans())
def test_a_file_brings_everything_back(path: Path, data: st.DataObject, texts: list[str], half: bool) -> None:
    kind = np.float16 if half else np.float32
    finite = st.floats(width=16, allow_nan=False, allow_infinity=False) if half else FINITE
    vectors = data.draw(arrays(kind, (len(texts), 3), elements=finite))
    labels = {f"label {text}": [text] for text in data.draw(st.lists(st.sampled_from(texts), unique=True))}
    bank = LabelBank("abc", texts, vectors, labels, "mödel", 'Find\0 the "land" cover:')
    bank.save(path, overwrite=True)
    again = LabelBank.load(path)
    assert again.vectors.tobytes() == vectors.astype(np.float32).tobytes()
    assert again.texts == tuple(texts)
    assert list((again.labels or {}).items()) == list(labels.items())
    for name in ("space", "model", "instruction", "created"):
        assert getattr(again, name) == getattr(bank, name)
    assert again.source == str(path)


def test_a_float16_file_of_an_earlier_version_is_read(golden_dir: Path) -> None:
    bank = LabelBank.load(golden_dir / "float16_bank.safetensors")
    assert bank.prompts == {"water": ["a river"]}
    assert bank.vectors.dtype == np.float32
    assert bank.vectors.tolist() == [[0.5, -1.25, 3.0]]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int) -> None:
    make("old").save(path)

    def full(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(DiskFullError, match=r"labels\.safetensors: no space left"):
        make("new").save(path, overwrite=True)
    monkeypatch.undo()
    assert LabelBank.load(path).texts == ("old",)
    assert list(path.parent.iterdir()) == [path]


def test_a_bank_is_replaced_only_where_that_is_asked(path: Path) -> None:
    make("old").save(path)
    with pytest.raises(InputError, match=r"is there already; pass another path, or overwrite=True"):
        make("new").save(path)
    assert LabelBank.load(path).texts == ("old",)
    make("new").save(path, overwrite=True)
    assert LabelBank.load(path).texts == ("new",)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    make("a").save(tmp_path / "new" / "x.safetensors")
    with pytest.raises(InputError, match=r"new: is a folder or a device; pass the path of a file"):
        make("a").save(tmp_path / "new")
    with pytest.raises(WeightsError, match=r"y\.safetensors: cannot be written .*pass another folder"):
        make("a").save(tmp_path / "new" / "x.safetensors" / "y.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.safetensors"]


def test_a_link_is_followed(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    make("a").save(link)
    assert link.is_symlink()
    assert LabelBank.load(path).texts == ("a",)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "bit", "header"])
def test_damage_is_found_and_named(path: Path, damage: str) -> None:
    make("river", "lake").save(path)
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "cut":
        del content[-5:]
    elif damage == "text":
        content = bytearray(b"some notes of mine")
    elif damage == "bit":
        content[-3] ^= 4
    else:
        content = content.replace(b"river", b"rivet")
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"labels\.safetensors: damaged.*build it again"):
        LabelBank.load(path)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"labels\.safetensors: no such file"):
        LabelBank.load(path)
    with pytest.raises(CacheError, match="no such file"):
        LabelBank.load(tmp_path)
    save_file({"vectors": np.ones((1, 2), dtype=np.float32)}, path)
    with pytest.raises(CacheError, match=r"labels\.safetensors: not a label bank"):
        LabelBank.load(path)
    save_file(
        {"vectors": np.ones((1, 2), dtype=np.float32)}, path, metadata={"format": "sattxt-label-bank", "version": "9"}
    )
    with pytest.raises(CacheError, match="version 9; update sattxt"):
        LabelBank.load(path)
    save_file(
        {"other": np.ones((1, 2), dtype=np.float32)}, path, metadata={"format": "sattxt-label-bank", "version": "1"}
    )
    with pytest.raises(CacheError, match=r"labels\.safetensors: damaged"):
        LabelBank.load(path)


def test_more_text_than_a_file_holds_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sattxt.text.label_bank._HEADER_BYTES", 400)
    make("a").save(path)
    with pytest.raises(CacheError, match=r"labels\.safetensors: the texts are too long for one file; save them as"):
        make("ä" * 200).save(path, overwrite=True)
    assert LabelBank.load(path).texts == ("a",)


def test_the_file_is_plain_safetensors(path: Path) -> None:
    bank = make("river")
    bank.save(path)
    assert np.array_equal(load_file(path)["vectors"], bank.vectors)


# -- construction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": []}, "at least one text"),
        ({"texts": ["a", "a"]}, r"texts\[1\] 'a' is there twice"),
        ({"texts": ["a", 3]}, r"texts\[1\] is int"),
        ({"texts": ["a", "\ud800"]}, r"texts\[1\] is not valid Unicode"),
        ({"texts": ["a"]}, r"for 1 texts pass floats of shape \(1, width\)"),
        ({"vectors": np.ones((2, 3), dtype=int)}, "floats of shape"),
        ({"vectors": np.array([[1.0], [np.nan]])}, r"vectors\[1\] holds NaN"),
        ({"labels": {"x": ["c"]}}, "label 'x' has a prompt without a vector: 'c'"),
        ({"labels": {"x": []}}, "label 'x' needs a list of prompts, one at least"),
        ({"labels": {"x": "a"}}, "label 'x' needs a list"),
        ({"space": ""}, "fingerprint"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict, said: str) -> None:
    facts: dict = {"space": "abc", "texts": ["a", "b"], "vectors": np.ones((2, 3), dtype=np.float32), **changes}
    with pytest.raises(InputError, match=said):
        LabelBank(**facts)


# -- merging -------------------------------------------------------------------------------------------------------


def test_merge_keeps_order_texts_and_labels() -> None:
    one = make("river", "lake", labels={"water": ["river", "lake"]})
    two = make("lake", "forest", "river", labels={"trees": ["forest"], "water": ["river", "lake"]})
    merged = LabelBank.merge([one, two])
    assert merged.texts == ("river", "lake", "forest")
    assert merged.labels == {"water": ["river", "lake"], "trees": ["forest"]}
    assert np.array_equal(merged.vectors, make("river", "lake", "forest").vectors)
    assert (merged.space, merged.model) == ("abc", "tiny")


def test_merge_of_other_encoders_names_both(path: Path) -> None:
    make("a", model="first").save(path)
    with pytest.raises(BankMismatchError, match=r"labels\.safetensors \(first\) and label bank 2 \(second\)"):
        LabelBank.merge([LabelBank.load(path), make("b", space="other", model="second")])
    with pytest.raises(BankMismatchError, match=r"label bank 1 .* and label bank 2 .*different text encoders"):
        LabelBank.merge([make("a"), make("b", vectors=np.ones((1, 2)))])
    with pytest.raises(InputError, match="nothing to merge"):
        LabelBank.merge([])


def test_merge_refuses_other_vectors_for_a_text_but_not_rounding() -> None:
    with pytest.raises(CacheError, match="label bank 1 and label bank 3 hold different vectors for 'river'"):
        LabelBank.merge([make("river"), make("lake"), make("river", seed=1)])
    exact = make("river")
    noisy = make("river", vectors=exact.vectors * np.float32(1 + 1e-5))
    assert np.array_equal(LabelBank.merge([exact, noisy]).vectors, exact.vectors)


def test_merge_refuses_other_prompts_for_a_label() -> None:
    with pytest.raises(CacheError, match="label 'water' has other prompts in label bank 2 than before it"):
        LabelBank.merge([make("river", labels={"water": ["river"]}), make("lake", labels={"water": ["lake"]})])


def test_prompts_are_the_labels_or_else_every_text() -> None:
    assert make("river", "lake", labels={"water": ["river"]}).prompts == {"water": ["river"]}
    assert make("river", "lake").prompts == {"river": ["river"], "lake": ["lake"]}
