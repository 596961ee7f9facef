"""The Hugging Face hub, through ``huggingface_hub``: listings, checked downloads, uploads, and plain errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sattxt.config import build
from sattxt.errors import (
    GatedModelError,
    HubError,
    InputError,
    OfflineError,
    SatTxtError,
    UnknownModelError,
)
from sattxt.io import disk_errors, first_line
from sattxt.weights.checksums import check_download, hash_of, recall, remember

if TYPE_CHECKING:
    from sattxt.weights.directory import StoredModel

_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRUE = {"1", "ON", "YES", "TRUE"}


def is_repo_id(text: str) -> bool:
    """Whether ``text`` has the form ``org/repo``."""
    return _REPO_ID.match(text) is not None and Path(text).suffix not in {".pth", ".pt", ".safetensors"}


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. It is remembered, so that what was used once works offline.

    files: file name to the sha256 that the hub states (None for small files).
    """

    repo: str
    commit: str
    files: dict[str, str | None]


@dataclass(frozen=True)
class HubAccess:
    """How the hub is reached: the arguments are those of ``huggingface_hub``.

    ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are read at every call, so they may be set after the import.
    """

    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
        return self.local_files_only or any(flag.upper() in _TRUE for flag in flags)

    @property
    def endpoint(self) -> str:
        """Address of the hub, without a slash at the end."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"

    def listing(self, repo: str, revision: str | None = None) -> Listing:
        """What a repository holds at ``revision`` (default ``main``).

        Offline, or when the hub cannot be reached, what was listed before.

        Raises:
            InputError, UnknownModelError, GatedModelError, OfflineError, HubError
        """
        if not is_repo_id(repo):
            raise InputError(f"{repo!r}: neither an existing folder nor a hub id of the form org/name")
        requested = revision or "main"
        remembered = recall("listings", f"{repo}@{requested}")
        known = None if remembered is None else build(Listing, remembered, f"what is remembered of {repo}")
        if known is not None and (self.offline or _COMMIT.match(requested)):
            return known
        try:
            found = self._fetch_listing(repo, requested)
        except OfflineError:
            if known is None:
                raise
            return known
        for name in {requested, found.commit} if found != known else ():
            remember("listings", f"{repo}@{name}", asdict(found))
        return found

    def folder(
        self, repo: str, revision: str | None, patterns: Sequence[str], *, sha256: Mapping[str, str] | None = None
    ) -> Path:
        """The files of a repository that match ``patterns``, in one folder: downloaded unless cached, and checked.

        Args:
            repo: hub id.
            revision: branch, tag or commit; default ``main``.
            patterns: such as ``"*.json"``, ``"text_encoder/*"``; ``*`` does not cross a slash.
            sha256: known hashes by file name; for others, what the hub states, and what it was on first use.

        Raises:
            ChecksumError: a file is not the published one, or not the one of its first use.
            UnknownModelError, GatedModelError, OfflineError, HubError
        """
        listing = self.listing(repo, revision)
        names = [n for n in listing.files if any(_matches(n, pattern) for pattern in patterns)]
        if not names:
            raise HubError(f"{repo}: holds no file that matches {', '.join(patterns)}; is it the right repository?")
        folder = self._download(listing, names)
        for name in names:
            published = (sha256 or {}).get(name) or listing.files[name]
            if not (folder / name).is_file():
                raise OfflineError(_not_cached(f"{name} of {repo}", revision))
            if published and not self.offline and not hash_of(folder / name).startswith(published):
                self._download(listing, [name], again=True)  # damaged in the cache
            for version in {listing.commit, revision or "main"}:
                check_download(f"{repo}@{version}/{name}", folder / name, published)
        return folder

    def _download(self, listing: Listing, names: Sequence[str], *, again: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        with self._errors(listing.repo, listing.commit), disk_errors(Path(self.cache_dir or "Hugging Face's cache")):
            folder = snapshot_download(
                listing.repo,
                revision=listing.commit,
                allow_patterns=list(names),
                cache_dir=None if self.cache_dir is None else Path(self.cache_dir),
                token=self.token,
                local_files_only=self.offline,
                force_download=again,
                endpoint=self.endpoint,
                library_name="sattxt",
            )
        return Path(folder)

    def _fetch_listing(self, repo: str, revision: str) -> Listing:
        from huggingface_hub import HfApi

        if self.offline:
            raise OfflineError(_not_cached(f"the listing of {repo}", revision))
        with self._errors(repo, revision):
            api = HfApi(endpoint=self.endpoint, token=self.token, library_name="sattxt")
            info = api.model_info(repo, revision=revision, files_metadata=True)
        files = {item.rfilename: (item.lfs.sha256 if item.lfs else None) for item in info.siblings or []}
        return Listing(repo, info.sha or revision, files)

    @contextmanager
    def _errors(self, repo: str, revision: str | None) -> Iterator[None]:
        """Turn errors of ``huggingface_hub`` into ours."""
        try:
            yield
        except Exception as error:
            ours = self._translate(error, repo, revision)
            if ours is None:
                raise
            raise ours from error

    def _translate(self, error: Exception, repo: str, revision: str | None) -> SatTxtError | None:
        from huggingface_hub import errors as hub

        if isinstance(error, SatTxtError):
            return None
        if isinstance(error, hub.RevisionNotFoundError):
            return HubError(f"{repo}: has no revision {revision!r}; see https://huggingface.co/{repo}/commits")
        if isinstance(error, hub.RepositoryNotFoundError) and not isinstance(error, hub.GatedRepoError):
            return UnknownModelError(
                f"{repo}: no such repository on {self.endpoint}, or a private one; check the name, or pass token="
            )
        if isinstance(error, hub.HfHubHTTPError):
            status = error.response.status_code
            if status in (401, 403):
                return GatedModelError(
                    f"{repo}: access is gated: accept its licence at https://huggingface.co/{repo}, then log in with "
                    "'hf auth login' (or set HF_TOKEN, or pass token=) and try again"
                )
            if status >= 500 or status in (408, 429):
                return OfflineError(f"{repo}: the hub answered {status}; try again later")
            return HubError(f"{repo}: the hub answered {status} ({first_line(error)})")
        transport = type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3"))
        if transport or isinstance(error, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled)):
            return OfflineError(_not_cached(repo, revision))
        if isinstance(error, hub.HFValidationError):
            return InputError(f"{repo!r}: not a hub id ({first_line(error)})")
        if isinstance(error, OSError) and error.errno is None:  # with a number it is a matter of this machine's disk
            return HubError(f"{repo}: the download broke off ({first_line(error)}); run the command again")
        return None


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

    from sattxt.weights.directory import copy_model

    for source in (stored.config.text.base, *stored.config.text.adapters):
        if source is not None and source.revision is None and Path(source.location).is_absolute():
            raise InputError(
                f"this model refers to the local folder {source.location}; convert it again with the hub id of that "
                "part, or with copy_llm=True (--copy-llm), and push that"
            )
    if not is_repo_id(repo_id):
        raise InputError(f"repo_id={repo_id!r}: pass org/name")
    access = HubAccess(token)
    with TemporaryDirectory(prefix="sattxt-push-") as folder, access._errors(repo_id, revision):
        copied = copy_model(stored, Path(folder) / "model")
        api = HfApi(endpoint=access.endpoint, token=token, library_name="sattxt")
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = f"Upload {stored.config.name}"
        commit = api.upload_folder(repo_id=repo_id, folder_path=copied, commit_message=message, revision=revision)
    return str(commit.commit_url)


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def _not_cached(what: str, revision: str | None) -> str:
    return (
        f"{what} (revision {revision or 'main'}) is not cached and the hub was not reached: connect once without "
        "local_files_only and HF_HUB_OFFLINE, or download it elsewhere and pass its folder"
    )
