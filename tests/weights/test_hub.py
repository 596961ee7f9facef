"""Models by name: the hub (a local stand-in), gates, broken transfers, changed files, and working offline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub_standin import HubStandIn, Repo
from release_files import ADAPTERS, LLM, convert_golden, write_heads, write_transformers_checkpoint
from safetensors.torch import load_file

from sattxt import SatTxt
from sattxt.config import ModelSource
from sattxt.errors import (
    ChecksumError,
    GatedModelError,
    HubError,
    InputError,
    OfflineError,
    UnknownModelError,
    WeightsError,
)
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import read_model
from sattxt.weights.hub import HubAccess
from sattxt.weights.resolver import push_model, resolve

HEADS = "ikhado/sattxt"
BACKBONE = "facebook/dinov3-vitl16-pretrain-sat493m"
LLM_REPO = "meta-llama/Meta-Llama-3-8B-Instruct"
MNTP = "McGill-NLP/LLM2Vec-Meta-Llama-3-8B-Instruct-mntp"
SIMCSE = "McGill-NLP/LLM2Vec-Meta-Llama-3-8B-Instruct-mntp-unsup-simcse"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A hub with the miniature release under the names of the real one; backbone and language model are gated."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with HubStandIn() as standin:
        standin.add_folder(BACKBONE, write_transformers_checkpoint(tmp_path / "dinov3"), gated=True)
        standin.add_folder(HEADS, write_heads(tmp_path / "heads"))
        standin.add_folder(LLM_REPO, LLM, gated=True)
        standin.add_folder(MNTP, ADAPTERS[0])
        standin.add_folder(SIMCSE, ADAPTERS[1])
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


def forget(cache: Path, *, ledger: bool = False) -> None:
    """What a user does who empties a cache."""
    shutil.rmtree(cache)
    if ledger:
        shutil.rmtree(os.environ["SATTXT_CACHE"])


def test_the_published_model_is_fetched_converted_once_and_opens_offline(
    hub: HubStandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "hf"
    caplog.set_level("INFO", "sattxt")
    first = resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    stored = read_model(first)
    same = read_model(convert_golden(tmp_path / "local"))
    assert all(torch.equal(stored.vision[key], same.vision[key]) for key in same.vision)
    assert stored.config.name == "sattxt-vitl16"
    assert stored.config.image.preset == "official"
    assert stored.config.text.base == ModelSource(LLM_REPO, hub.repos[LLM_REPO].commit)
    assert first.parent == cache / "converted"
    assert f"converting sattxt-vitl16 into {first} (once)" in caplog.messages
    assert f"base_model:\n- {LLM_REPO}\n- {MNTP}\n- {SIMCSE}\n- {BACKBONE}\n" in (first / "README.md").read_text()

    hub.stop()
    assert resolve("sattxt-vitl16", cache_dir=cache) == first
    assert resolve("sattxt-vitl16", cache_dir=cache, local_files_only=True) == first


def test_resolving_needs_no_file_of_the_language_model_and_gives_the_digest_of_its_files(
    hub: HubStandIn, tmp_path: Path
) -> None:
    path = resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=hub.token)
    assert hub.downloads(LLM_REPO) == set()
    local = read_model(convert_golden(tmp_path / "local")).config.text.weights_sha256
    assert read_model(path).config.text.weights_sha256 == local


def test_a_second_process_offline_needs_no_hub(hub: HubStandIn, tmp_path: Path) -> None:
    cache = tmp_path / "hf"
    path = resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    hub.stop()
    code = f"from sattxt.weights.resolver import resolve; print(resolve('sattxt-vitl16', cache_dir={str(cache)!r}))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(path)


@pytest.mark.parametrize("token", [None, "hf_without_access"])
def test_a_gate_is_an_error_with_the_licence_page_and_the_login(
    hub: HubStandIn, tmp_path: Path, token: str | None
) -> None:
    with pytest.raises(GatedModelError, match=f"https://huggingface.co/{BACKBONE}.*hf auth login") as caught:
        resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=token or False)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "hf").glob("converted/*/config.json"))


def test_the_language_models_gate_is_met_only_when_its_files_are_asked_for(hub: HubStandIn, tmp_path: Path) -> None:
    path = resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=hub.token)
    base = read_model(path).config.text.base
    assert base is not None
    with pytest.raises(GatedModelError, match=LLM_REPO):
        HubAccess(False, tmp_path / "hf").folder(base.location, base.revision)
    folder = HubAccess(hub.token, tmp_path / "hf").folder(base.location, base.revision)
    assert (folder / "model.safetensors").read_bytes() == (LLM / "model.safetensors").read_bytes()
    hub.stop()
    again = HubAccess(None, tmp_path / "hf", local_files_only=True).folder(base.location, base.revision)
    assert again == folder


def test_a_file_whose_name_is_a_pattern_is_fetched(hub: HubStandIn, tmp_path: Path) -> None:
    hub.repos["org/odd"] = Repo({"a[1].json": b"{}", "a1.json": b"[]"})
    folder = HubAccess(cache_dir=tmp_path / "hf").folder("org/odd", None, ("a[1].json",))
    assert (folder / "a[1].json").read_bytes() == b"{}"


def test_a_revision_that_is_not_there_and_files_that_are_not_there_are_told(hub: HubStandIn, tmp_path: Path) -> None:
    access = HubAccess(cache_dir=tmp_path / "hf")
    with pytest.raises(HubError, match="no revision 'v9'"):
        access.folder(HEADS, "v9", ("*.pt",))
    with pytest.raises(
        HubError, match=rf"{HEADS}: holds no file that matches \*\.bin, x/\*; is it the right repository"
    ):
        access.folder(HEADS, patterns=("*.bin", "x/*"))


def test_parts_are_taken_from_the_hub_at_the_revisions_asked_for(hub: HubStandIn, tmp_path: Path) -> None:
    pinned = {repo: hub.repos[repo].commit for repo in (BACKBONE, LLM_REPO, MNTP, SIMCSE)}
    options = {"dinov3": BACKBONE, "llm": LLM_REPO, "adapters": [MNTP, SIMCSE], "token": hub.token}
    options |= {"cache_dir": tmp_path / "hf"}
    path = convert_golden(tmp_path / "a", **options, copy_llm=True, revisions=pinned)
    local = read_model(convert_golden(tmp_path / "b", copy_llm=True))
    assert read_model(path).config.text == local.config.text
    assert torch.equal(
        load_file(path / "text_encoder" / "model.safetensors")["norm.weight"],
        load_file(tmp_path / "b" / "text_encoder" / "model.safetensors")["norm.weight"],
    )
    card = (convert_golden(tmp_path / "c", **options, revisions=pinned, name="mine") / "README.md").read_text()
    assert f"base_model:\n- {LLM_REPO}\n- {MNTP}\n- {SIMCSE}\nembedding_dimension: 128" in card
    assert f", {LLM_REPO} at {pinned[LLM_REPO][:8]}, with {MNTP} at {pinned[MNTP][:8]}, then {SIMCSE}" in card
    convert_golden(tmp_path / "d", **options, local_files_only=True, revisions=pinned)
    only = {"llm": LLM_REPO, "adapters": [MNTP], "cache_dir": tmp_path / "hf", "local_files_only": True}
    with pytest.raises(OfflineError, match=rf"{MNTP} \(revision main\) is not cached"):  # nobody asked for that one
        convert_golden(tmp_path / "e", **only, revisions={LLM_REPO: pinned[LLM_REPO]})
    for repo in pinned:
        with pytest.raises(HubError, match=f"{repo}: has no revision 'v9'"):
            convert_golden(tmp_path / "e", **options, revisions={repo: "v9"})


def test_a_broken_transfer_is_resumed(hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 15)  # real files are larger than 10 MB
    hub.break_off.add("sattxt_vision_head.pt")
    path = resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=hub.token)
    assert len(hub.ranges) == 1, "the rest was asked for, not the whole file"
    assert int(hub.ranges[0].removeprefix("bytes=").rstrip("-")) > 100_000
    assert read_model(path).config.vision.head.depth == 2


def test_a_file_that_changed_since_its_first_use_is_refused(hub: HubStandIn, tmp_path: Path) -> None:
    cache = tmp_path / "hf"
    resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    forget(cache)
    hub.repos[HEADS].files["sattxt_text_head.pt"] += b"\0"
    with pytest.raises(ChecksumError, match=r"sattxt_text_head.pt.*on first use"):
        resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)


def test_a_file_damaged_in_the_cache_is_fetched_again_or_refused_offline(hub: HubStandIn, tmp_path: Path) -> None:
    cache = tmp_path / "hf"
    resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    shutil.rmtree(cache / "converted")
    blob = next(cache.glob("models--ikhado--sattxt/snapshots/*/sattxt_text_head.pt")).resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-10] + b"0123456789")
    with pytest.raises(ChecksumError, match=r"sattxt_text_head.pt"):
        resolve("sattxt-vitl16", cache_dir=cache, local_files_only=True)
    resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    assert blob.read_bytes() == whole


def test_what_was_downloaded_once_is_converted_again_offline(hub: HubStandIn, tmp_path: Path) -> None:
    cache = tmp_path / "hf"
    first = resolve("sattxt-vitl16", cache_dir=cache, token=hub.token)
    config = read_model(first).config
    (first / "config.json").unlink()  # what an interrupted copy leaves
    hub.stop()
    assert read_model(resolve("sattxt-vitl16", cache_dir=cache, local_files_only=True)).config == config
    shutil.rmtree(cache / "converted")
    next(cache.glob("models--ikhado--sattxt/snapshots/*/sattxt_text_head.pt")).unlink()
    with pytest.raises(OfflineError, match=f"{HEADS}.*not cached.*local_files_only"):
        resolve("sattxt-vitl16", cache_dir=cache, local_files_only=True)


def test_a_damaged_ledger_is_named(hub: HubStandIn, tmp_path: Path) -> None:
    ledger = Path(os.environ["SATTXT_CACHE"]) / "checksums.json"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("{")
    with pytest.raises(WeightsError, match=r"checksums.json: cannot be read as JSON.*remove it"):
        resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=hub.token)


def test_two_processes_convert_once(hub: HubStandIn, tmp_path: Path) -> None:
    code = (
        "import sattxt.weights.convert as c\n"
        "from sattxt.weights.resolver import resolve\n"
        "real = c.convert\n"
        "def counted(*a, **k):\n"
        "    print('converted')\n"
        "    return real(*a, **k)\n"
        "c.convert = counted\n"
        f"print(resolve('sattxt-vitl16', cache_dir={str(tmp_path / 'hf')!r}, token={hub.token!r}))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    lines = "".join(out for out, _ in outputs).split()
    assert lines.count("converted") == 1
    assert len(set(lines)) == 2, "both got the same directory"


def test_offline_without_a_cache_says_what_is_missing(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OfflineError, match=f"{HEADS}.*local_files_only"):
        resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", local_files_only=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match=r"some/model.*HF_HUB_OFFLINE"):
        resolve("some/model", cache_dir=tmp_path / "hf")
    assert not hub.requests


def test_no_network_is_an_offline_error(hub: HubStandIn, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(OfflineError, match=r"some/model: is no folder here, .* cannot be reached"):
        resolve("some/model", cache_dir=tmp_path / "hf")


def test_a_pushed_model_comes_back_the_same_and_works_offline(hub: HubStandIn, tmp_path: Path) -> None:
    path = resolve("sattxt-vitl16", cache_dir=tmp_path / "hf", token=hub.token)
    address = push_model(read_model(path), "someone/my-model", token=hub.token)
    assert "someone/my-model/commit/" in address
    assert b"library_name: sattxt" in hub.repos["someone/my-model"].files["README.md"]

    pulled = resolve("someone/my-model", cache_dir=tmp_path / "hf2")
    assert read_model(pulled).config == read_model(path).config
    with pytest.raises(HubError, match="no revision 'v9'"):
        resolve("someone/my-model", cache_dir=tmp_path / "hf2", revision="v9")
    hub.stop()
    assert resolve("someone/my-model", cache_dir=tmp_path / "hf2") == pulled


def test_the_bundled_model_comes_back_with_all_of_its_files(hub: HubStandIn, tmp_path: Path) -> None:
    bundled = resolve("sattxt-mini")
    push_model(read_model(bundled), "someone/mini", token=hub.token)
    pulled = resolve("someone/mini", cache_dir=tmp_path / "hf")
    assert read_sums(pulled).keys() == read_sums(bundled).keys()
    assert read_model(pulled).fit.keys() == read_model(bundled).fit.keys()


def test_a_model_pushes_itself(hub: HubStandIn, tmp_path: Path) -> None:
    mini = SatTxt.from_pretrained(text_cache=False, preprocess={"window": 40})
    address = mini.push_to_hub("someone/mine", token=hub.token)
    assert address.startswith(f"{hub.url}/someone/mine/commit/")
    assert hub.messages == ["Upload sattxt-mini"]
    again = SatTxt.from_pretrained("someone/mine", cache_dir=tmp_path / "hf", text_cache=False)
    assert again.config == mini.config
    assert again.config.image.window == 40


def test_a_model_that_points_to_a_local_folder_is_not_pushed(hub: HubStandIn, tmp_path: Path) -> None:
    stored = read_model(convert_golden(tmp_path / "local"))
    with pytest.raises(InputError, match="copy_llm"):
        push_model(stored, "someone/my-model", token=hub.token)
    assert "someone/my-model" not in hub.repos


def test_names_that_are_no_model(hub: HubStandIn, tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"'sattxt-mimi'.*did you mean 'sattxt-mini'.*sattxt-vitl16"):
        resolve("sattxt-mimi")
    with pytest.raises(UnknownModelError, match="no model of this name and no such directory"):
        resolve(str(tmp_path / "nothing" / "here"))
    with pytest.raises(UnknownModelError, match="nobody/nothing: no such repository"):
        resolve("nobody/nothing", cache_dir=tmp_path / "hf", token=False)
    with pytest.raises(HubError, match=r"not a sattxt model, config.json is missing"):
        resolve(HEADS, cache_dir=tmp_path / "hf")
    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    with pytest.raises(InputError, match=r"is a file.*sattxt convert"):
        resolve(file)


def test_a_directory_is_itself_and_has_no_revision(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    with pytest.raises(InputError, match="revision"):
        resolve(tmp_path, revision="main")


def test_a_missing_local_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="gone"):
        HubAccess().folder(str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match="no such model directory"):
        read_model(tmp_path / "gone")


def _answer(status: int) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    answer: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError("odd\nanswer", response=answer)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (_answer(401), GatedModelError, "org/x: access is gated"),
        (_answer(403), GatedModelError, "org/x: access is gated"),
        (_answer(408), OfflineError, "org/x: the hub answered 408; try again later"),
        (_answer(429), OfflineError, "org/x: the hub answered 429; try again later"),
        (_answer(500), OfflineError, "org/x: the hub answered 500; try again later"),
        (_answer(418), HubError, r"org/x: the hub answered 418 \(odd\)"),
        (OSError("cut"), HubError, r"org/x: the download broke off \(cut\); run the command again"),
        (OSError(5, "I/O error"), OSError, "I/O error"),
        (KeyError("x"), KeyError, "x"),
        (InputError("ours"), InputError, "ours"),
    ],
)
def test_errors_of_the_hub_become_plain_ones(error: Exception, raised: type[Exception], says: str) -> None:
    with pytest.raises(raised, match=says) as caught, HubAccess().errors("org/x", None):
        raise error
    assert type(caught.value) is raised


def test_names_that_the_hub_refuses(hub: HubStandIn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'org/a--b': not a hub id"):
        HubAccess(cache_dir=tmp_path / "hf").folder("org/a--b")
    stored = read_model(resolve("sattxt-mini"))
    with pytest.raises(InputError, match="repo_id='mine': pass org/name"):
        push_model(stored, "mine", token=hub.token)


def test_a_listing_outlives_the_network_and_a_file_never_fetched_is_told(hub: HubStandIn, tmp_path: Path) -> None:
    hub.repos["org/odd"] = Repo({"a.json": b"{}", "b.json": b"[]"})
    access, offline = HubAccess(cache_dir=tmp_path / "hf"), HubAccess(cache_dir=tmp_path / "hf", local_files_only=True)
    access.folder("org/odd", patterns=("a.json",))
    found = access.listing("org/odd")
    with pytest.raises(OfflineError, match=r"org/odd \(revision .*\) is not cached and nothing may be"):
        offline.folder("org/odd", patterns=("b.json",))
    hub.stop()
    assert access.listing("org/odd") == found
    assert found.files == {"a.json": None, "b.json": None}
