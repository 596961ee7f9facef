"""The Hugging Face hub, through ``huggingface_hub``: listings, verified downloads, uploads, and plain errors.

A listing (file names, and the sha256 the hub states for large ones) is pinned to the exact commit and kept in the
user's cache directory, so that what was used once works offline.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sattxt.config import ModelSource
from sattxt.errors import (
    GatedModelError,
    HubError,
    InputError,
    OfflineError,
    SatTxtError,
    UnknownModelError,
    WeightsError,
)
from sattxt.io import atomic_write, disk_errors, first_line, user_cache_dir
from sattxt.weights.checksums import check_or_record, hash_of

if TYPE_CHECKING:
    from sattxt.weights.directory import StoredModel

_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Listing:
    """A repository at one commit: file name to the sha256 that the hub states (None for small files)."""

    repo: str
    requested: str
    commit: str
    files: Mapping[str, str | None]


class HubAccess:
    """How the hub is reached: token, cache directory, and whether at all.

    ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are read at every call, so they may be set after the import.
    """

    def __init__(
        self,
        *,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        self.token = token
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self._local_files_only = local_files_only

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
        return self._local_files_only or any(flag.upper() in _TRUE for flag in flags)

    @property
    def endpoint(self) -> str:
        """Address of the hub, without a slash at the end."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"

    @staticmethod
    def is_repo_id(text: str) -> bool:
        """Whether ``text`` has the form ``org/repo``."""
        return _REPO_ID.match(text) is not None and Path(text).suffix not in {".pth", ".pt", ".safetensors"}

    def listing(self, repo: str, revision: str | None = None) -> Listing:
        """What a repository holds at ``revision`` (default ``main``).

        Offline, or when the hub cannot be reached, what was listed before.

        Raises:
            InputError, UnknownModelError, GatedModelError, OfflineError, HubError
        """
        if not self.is_repo_id(repo):
            raise InputError(f"{repo!r}: neither an existing folder nor a hub id of the form org/name")
        requested = revision or "main"
        known = _read_listing(_listing_path(repo, requested))
        if known is not None and (self.offline or _COMMIT.match(requested)):
            return known
        try:
            found = self._fetch_listing(repo, requested)
        except OfflineError:
            if known is None:
                raise
            return known
        for name in dict.fromkeys((requested, found.commit)):
            data = {"repo": repo, "requested": name, "commit": found.commit, "files": dict(found.files)}
            with suppress(OSError, WeightsError), atomic_write(_listing_path(repo, name)) as file:
                file.write(json.dumps(data, indent=1).encode())  # failing only costs working offline
        return found

    def file(self, repo: str, name: str, revision: str | None = None, *, published: str | None = None) -> Path:
        """One file, downloaded unless cached, checked against the published sha256 or the one of first use."""
        path = self._download(repo, name, revision)
        if published is not None and not self.offline and not hash_of(path).startswith(published):
            path = self._download(repo, name, revision, again=True)  # damaged in the cache
        check_or_record(f"{repo}@{revision or 'main'}/{name}", path, published)
        return path

    def folder(
        self, repo: str, revision: str | None, patterns: Sequence[str], *, sha256: Mapping[str, str] | None = None
    ) -> Path:
        """The files of a repository that match ``patterns`` (``*`` does not cross a slash), in one folder.

        Args:
            repo: hub id.
            revision: branch, tag or commit; default ``main``.
            patterns: such as ``"*.json"``, ``"text_encoder/*"``.
            sha256: known hashes by file name; for others, what the hub states, and what it was on first use.
        """
        listing = self.listing(repo, revision)
        names = sorted(n for n in listing.files if any(_matches(n, pattern) for pattern in patterns))
        if not names:
            raise HubError(f"{repo}: holds no file that matches {', '.join(patterns)}; is it the right repository?")
        folder = Path()
        for name in names:
            known = (sha256 or {}).get(name) or listing.files[name]
            path = self.file(repo, name, listing.commit, published=known)
            if listing.requested != listing.commit:
                check_or_record(f"{repo}@{listing.requested}/{name}", path)
            folder = path.parents[name.count("/")]
        return folder

    def _download(self, repo: str, name: str, revision: str | None, *, again: bool = False) -> Path:
        from huggingface_hub import hf_hub_download

        with self._errors(repo, revision, name), disk_errors(Path(self.cache_dir or "the Hugging Face cache")):
            path = hf_hub_download(
                repo,
                name,
                revision=revision,
                cache_dir=self.cache_dir,
                token=self.token,
                local_files_only=self.offline,
                force_download=again,
                endpoint=self.endpoint,
                library_name="sattxt",
            )
        return Path(path)

    def _fetch_listing(self, repo: str, revision: str) -> Listing:
        from huggingface_hub import HfApi

        if self.offline:
            raise OfflineError(_not_cached(repo, revision, None))
        with self._errors(repo, revision, None):
            api = HfApi(endpoint=self.endpoint, token=self.token, library_name="sattxt")
            info = api.model_info(repo, revision=revision, files_metadata=True)
        files = {item.rfilename: (item.lfs.sha256 if item.lfs else None) for item in info.siblings or []}
        return Listing(repo, revision, info.sha or revision, files)

    @contextmanager
    def _errors(self, repo: str, revision: str | None, name: str | None) -> Iterator[None]:
        from huggingface_hub import errors as hub

        try:
            yield
        except (SatTxtError, KeyboardInterrupt):
            raise
        except hub.GatedRepoError as error:
            raise GatedModelError(_gated(repo)) from error
        except hub.RepositoryNotFoundError as error:
            raise UnknownModelError(
                f"{repo}: no such repository on {self.endpoint}, or a private one; check the name, or pass token="
            ) from error
        except hub.RevisionNotFoundError as error:
            raise HubError(
                f"{repo}: has no revision {revision!r}; see https://huggingface.co/{repo}/commits"
            ) from error
        except hub.LocalEntryNotFoundError as error:
            raise OfflineError(_not_cached(repo, revision, name)) from error
        except hub.EntryNotFoundError as error:
            raise HubError(f"{repo}: holds no file {name!r} at revision {revision or 'main'!r}") from error
        except hub.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise GatedModelError(_gated(repo)) from error
            if status >= 500 or status in (408, 429):
                raise OfflineError(f"{repo}: the hub answered {status}; try again later") from error
            raise HubError(f"{repo}: the hub answered {status} ({first_line(error)})") from error
        except hub.OfflineModeIsEnabled as error:
            raise OfflineError(_not_cached(repo, revision, name)) from error
        except hub.HFValidationError as error:
            raise InputError(f"{repo!r}: not a hub id ({first_line(error)})") from error
        except OSError as error:
            if error.errno is not None:
                raise  # a matter of this machine's disk
            raise HubError(
                f"{repo}: download of {name} broke off ({first_line(error)}); run the command again"
            ) from error
        except Exception as error:
            if type(error).__module__.split(".")[0].startswith(("httpx", "httpcore", "requests", "urllib3")):
                raise OfflineError(_not_cached(repo, revision, name)) from error
            raise


def component_dir(
    source: ModelSource,
    patterns: Sequence[str] = ("*.json", "*.safetensors"),
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a component that a model's config refers to: local, or downloaded and checked.

    Raises:
        OfflineError: a local folder is gone, or a file is not cached and may not be downloaded.
        GatedModelError, HubError: the hub refuses.
    """
    folder = Path(source.location)
    if source.revision is None and folder.is_absolute():
        if not folder.is_dir():
            raise OfflineError(f"{folder}: this folder, which the model refers to, is gone; convert the model again")
        return folder
    hub = HubAccess(token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    return hub.folder(source.location, source.revision, patterns)


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
    access = HubAccess(token=token)
    if not access.is_repo_id(repo_id):
        raise InputError(f"repo_id={repo_id!r}: pass org/name")
    with TemporaryDirectory(prefix="sattxt-push-") as folder, access._errors(repo_id, revision, None):
        copied = copy_model(stored, Path(folder) / "model")
        api = HfApi(endpoint=access.endpoint, token=token, library_name="sattxt")
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = f"Upload {stored.config.name}"
        commit: Any = api.upload_folder(repo_id=repo_id, folder_path=copied, commit_message=message, revision=revision)
    return str(commit.commit_url)


def _listing_path(repo: str, revision: str) -> Path:
    return user_cache_dir() / "listings" / f"{repo.replace('/', '--')}@{revision.replace('/', '--')}.json"


def _read_listing(path: Path) -> Listing | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Listing(data["repo"], data["requested"], data["commit"], data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def _gated(repo: str) -> str:
    return (
        f"{repo}: access is gated: accept its licence at https://huggingface.co/{repo}, then log in with "
        "'hf auth login' (or set HF_TOKEN, or pass token=) and try again"
    )


def _not_cached(repo: str, revision: str | None, name: str | None) -> str:
    what = f"{name} of {repo}" if name else f"the listing of {repo}"
    return (
        f"{what} (revision {revision or 'main'}) is not cached and the hub was not reached: connect once without "
        f"local_files_only and HF_HUB_OFFLINE, or download {repo} elsewhere and pass its folder"
    )
