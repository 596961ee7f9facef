"""Models by name: from a name to a directory on this machine, and from a directory to the hub."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from sattxt.config import FORMAT_VERSION
from sattxt.errors import HubError, InputError, UnknownModelError, WeightsError, near
from sattxt.io import disk_errors, user_cache_dir
from sattxt.weights.checksums import SUMS_FILE
from sattxt.weights.directory import (
    CARD_FILE,
    CONFIG_FILE,
    OPENVINO_DIR,
    TEXT_ENCODER_DIR,
    TEXT_HEAD_FILE,
    VISION_FILE,
    StoredModel,
    copy_model,
    is_model_dir,
)
from sattxt.weights.hub import HubAccess, is_repo_id
from sattxt.weights.manifest import Component, ModelEntry, find_model, list_models

_logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled"


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """A model directory on this machine for a name, a directory or a hub id; downloads and converts where needed.

    Args:
        name_or_path: a name from the manifest (``"sattxt-mini"``, ``"sattxt-vitl16"``), a directory, or ``"org/repo"``.
            A directory named like a known model is meant only as ``"./sattxt-mini"``.
        revision: branch, tag or commit of a hub repository. For the published model: of the repository of its heads.
        cache_dir: for downloads (default: huggingface_hub's) and the converted model (default: sattxt's).
        local_files_only: download nothing; ``HF_HUB_OFFLINE=1`` does the same.
        token: for private and gated repositories; default: the one of ``hf auth login``.

    Raises:
        UnknownModelError: no such name, directory or repository; the message lists near matches.
        GatedModelError: a licence must be accepted; the message says where.
        OfflineError: something is not cached and cannot be downloaded.
        ChecksumError: a downloaded file is not the recorded one.
        InputError: ``revision`` for something that has none.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise InputError(f"a model is named by a text or a path, not {type(name_or_path).__name__}")
    text = os.fspath(name_or_path)
    hub = HubAccess(token, cache_dir, local_files_only)
    entry = find_model(text)
    if entry is not None and not entry.bundled:
        return _published(entry, hub, revision)
    path = Path(text).expanduser()
    if entry is not None or path.is_dir():
        if revision is not None:
            where = "comes with the package" if entry else "is a directory on this machine"
            raise InputError(f"revision={revision!r}: {text} {where} and has no revisions; leave it out")
        path = BUNDLED / entry.name if entry else path
        if entry and not is_model_dir(path):
            raise WeightsError(f"{path}: this installation lacks the bundled model {text}; install sattxt again")
        return path
    if path.exists():
        raise InputError(f"{text}: is a file; pass a model directory ('sattxt convert' makes one of published weights)")
    if is_repo_id(text):
        return _repository(text, hub, revision)
    known = [model.name for model in list_models()]
    raise UnknownModelError(
        f"{text!r}: no model of this name and no such directory{near(text, known) or '.'} "
        f"Known models: {', '.join(known)}. Or pass a model directory, or a hub id of the form org/name"
    )


def push_model(
    stored: StoredModel,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Upload a model directory, with its card, as one commit; returns the commit's address.

    Raises:
        InputError: the model refers to a language model in a local folder, which nobody else has.
        GatedModelError: not logged in. HubError: the upload failed.
    """
    from huggingface_hub import HfApi

    for source in (stored.config.text.base, *stored.config.text.adapters):
        if source is not None and source.revision is None and Path(source.location).is_absolute():
            raise InputError(
                f"this model refers to the local folder {source.location}; convert it again with the hub id of that "
                "part, or with copy_llm=True (--copy-llm), and push that"
            )
    if not is_repo_id(repo_id):
        raise InputError(f"repo_id={repo_id!r}: pass org/name")
    access = HubAccess(token)
    with TemporaryDirectory(prefix="sattxt-push-") as folder, access.errors(repo_id, revision):
        copied = copy_model(stored, Path(folder) / "model")
        api = HfApi(endpoint=access.endpoint, token=token, library_name="sattxt")
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=copied,
            commit_message=f"Upload {stored.config.name}",
            revision=revision,
        )
    return str(commit.commit_url)


def _repository(repo: str, hub: HubAccess, revision: str | None) -> Path:
    """A model that ``push_to_hub`` wrote."""
    needed = (CONFIG_FILE, VISION_FILE, TEXT_HEAD_FILE, SUMS_FILE)
    missing = [name for name in needed if name not in hub.listing(repo, revision).files]
    if missing:
        raise HubError(
            f"{repo}: not a sattxt model, {missing[0]} is missing; convert published weights with 'sattxt convert'"
        )
    return hub.folder(
        repo, revision, ("*.json", "*.safetensors", SUMS_FILE, CARD_FILE, f"{TEXT_ENCODER_DIR}/*", f"{OPENVINO_DIR}/*")
    )


def _published(entry: ModelEntry, hub: HubAccess, revision: str | None) -> Path:
    """The release's own files, downloaded and converted once."""
    parts = {part.role: part for part in entry.components}
    adapters = [part.location for part in entry.components if part.role == "adapter"]
    revisions = {part.location: part.revision for part in entry.components}
    if revision is not None:
        revisions[parts["vision_head"].location] = revision
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, asdict(entry)["components"], revisions]).encode()).hexdigest()
    root = Path(hub.cache_dir).expanduser() if hub.cache_dir else user_cache_dir()
    target = root / "converted" / f"{entry.name}-{key[:12]}"
    if is_model_dir(target):
        return target

    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # pulls in asyncio, a tenth of a second

    with FileLock(str(target) + ".lock"):
        if is_model_dir(target):  # another process was faster
            return target
        shutil.rmtree(target, ignore_errors=True)  # what is left of it lacks files

        def fetch(part: Component, *names: str) -> Path:
            return hub.folder(part.location, revisions[part.location], names)

        vision, text = (parts[role].files[0]["name"] for role in ("vision_head", "text_head"))
        vision_head, text_head = fetch(parts["vision_head"], vision) / vision, fetch(parts["text_head"], text) / text
        backbone = fetch(parts["backbone"], "config.json", "*.safetensors")

        from sattxt.weights.convert import convert

        _logger.info("converting %s into %s (once)", entry.name, target)
        return convert(
            backbone,
            vision_head,
            text_head,
            parts["llm"].location,
            adapters,
            out=target,
            preprocess=entry.preprocessing,
            name=entry.name,
            token=hub.token,
            cache_dir=hub.cache_dir,
            local_files_only=hub.offline,
            revisions=revisions,
        )
