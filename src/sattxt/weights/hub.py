"""The Hugging Face hub, through ``huggingface_hub``: listings, checked downloads, and plain errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from glob import escape
from pathlib import Path

from sattxt.config import build
from sattxt.errors import GatedModelError, HubError, InputError, OfflineError, SatTxtError, UnknownModelError
from sattxt.io import disk_errors, first_line
from sattxt.weights.checksums import check_download, hash_of, recall, remember


def is_repo_id(text: str) -> bool:
    """Whether ``text`` has the form ``org/repo``."""
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text)
    return named is not None and Path(text).suffix not in {".pth", ".pt", ".safetensors"}


@dataclass(frozen=True)
class Listing:
    """A repository at one commit, or a folder on this machine. A repository's is remembered, so that what was used
    once works offline.

    repo: hub id, or absolute folder. commit: None for a folder.
    files: file name to the sha256 that the hub states (None for small files, and in a folder).
    """

    repo: str
    commit: str | None
    files: dict[str, str | None]


@dataclass(frozen=True)
class HubAccess:
    """Folders on this machine, and repositories of the hub; the arguments are those of ``huggingface_hub``.

    A place without a revision is a folder if there is one of that name. ``HF_HUB_OFFLINE`` and ``HF_ENDPOINT`` are
    read at every call, so they may be set after the import.
    """

    token: str | bool | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False

    @property
    def offline(self) -> bool:
        """Whether nothing may be downloaded."""
        flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
        return self.local_files_only or any(flag.upper() in ("1", "ON", "YES", "TRUE") for flag in flags)

    @property
    def endpoint(self) -> str:
        """Address of the hub, without a slash at the end."""
        return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"

    def listing(self, location: str, revision: str | None = None) -> Listing:
        """What a folder holds, or a repository at ``revision`` (default ``main``).

        Offline, or when the hub cannot be reached, what was listed before.

        Raises:
            InputError, UnknownModelError, GatedModelError, OfflineError, HubError
        """
        folder = Path(location).expanduser()
        if revision is None and folder.is_dir():
            return Listing(str(folder.resolve()), None, {f.name: None for f in folder.iterdir() if f.is_file()})
        if not is_repo_id(location):
            raise InputError(f"{location!r}: neither an existing folder nor a hub id of the form org/name")
        requested = revision or "main"
        remembered = recall("listings", f"{location}@{requested}")
        known = None if remembered is None else build(Listing, remembered, f"what is remembered of {location}")
        if known is not None and (self.offline or re.fullmatch("[0-9a-f]{40}", requested)):
            return known
        if self.offline:
            raise OfflineError(_not_cached(f"the listing of {location}", revision))
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token, library_name="sattxt")
        try:
            with self.errors(location, requested):
                info = api.model_info(location, revision=requested, files_metadata=True)
        except OfflineError:
            if known is None:
                raise
            return known
        files = {item.rfilename: (item.lfs.sha256 if item.lfs else None) for item in info.siblings or []}
        found = Listing(location, info.sha or requested, files)
        for name in {requested, found.commit} if found != known else ():
            remember("listings", f"{location}@{name}", asdict(found))
        return found

    def folder(
        self,
        location: str,
        revision: str | None = None,
        patterns: Sequence[str] = ("*.json", "*.safetensors"),
    ) -> Path:
        """A folder as it is, or the files of a repository that match, in one folder: downloaded unless cached, and
        checked against the sha256 that the hub states, and against that of their first use.

        Args:
            location: folder or hub id.
            revision: branch, tag or commit of a repository; default ``main``.
            patterns: names, or patterns such as ``"*.json"``, ``"text_encoder/*"``; ``*`` does not cross a slash.

        Raises:
            ChecksumError: a file is not the published one, or not the one of its first use.
            OfflineError: the folder is gone, or a file is not cached and may not be downloaded.
            InputError, UnknownModelError, GatedModelError, HubError
        """
        folder = Path(location).expanduser()
        if revision is None and folder.is_dir():
            return folder
        if folder.is_absolute():
            raise OfflineError(f"{folder}: this folder, which the model refers to, is gone; convert the model again")
        listing = self.listing(location, revision)
        chosen = {name: published for name, published in listing.files.items() if matches(name, patterns)}
        if not chosen:
            raise HubError(f"{location}: holds no file that matches {', '.join(patterns)}; is it the right repository?")
        folder = self._download(listing, chosen)
        for name, published in chosen.items():
            if not (folder / name).is_file():
                raise OfflineError(_not_cached(f"{name} of {location}", revision))
            if published and not self.offline and hash_of(folder / name) != published:
                self._download(listing, [name], again=True)  # damaged in the cache
            for version in {listing.commit, revision or "main"}:
                check_download(f"{location}@{version}/{name}", folder / name, published)
        return folder

    def _download(self, listing: Listing, names: Iterable[str], *, again: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        cache = None if self.cache_dir is None else Path(self.cache_dir)
        with self.errors(listing.repo, listing.commit), disk_errors(cache or Path("Hugging Face's cache")):
            return Path(
                snapshot_download(
                    listing.repo,
                    revision=listing.commit,
                    allow_patterns=[escape(name) for name in names],
                    cache_dir=cache,
                    token=self.token,
                    local_files_only=self.offline,
                    force_download=again,
                    endpoint=self.endpoint,
                    library_name="sattxt",
                )
            )

    @contextmanager
    def errors(self, repo: str, revision: str | None) -> Iterator[None]:
        """Turn errors of ``huggingface_hub`` into ours."""
        from huggingface_hub import errors as hub

        try:
            yield
        except hub.RevisionNotFoundError as error:
            raise HubError(
                f"{repo}: has no revision {revision!r}; see https://huggingface.co/{repo}/commits"
            ) from error
        except hub.HfHubHTTPError as error:
            status = error.response.status_code
            if isinstance(error, hub.RepositoryNotFoundError) and not isinstance(error, hub.GatedRepoError):
                raise UnknownModelError(
                    f"{repo}: no such repository on {self.endpoint}, or a private one; check the name, or pass token="
                ) from error
            if status in (401, 403):
                raise GatedModelError(
                    f"{repo}: access is gated: accept its licence at https://huggingface.co/{repo}, then log in with "
                    "'hf auth login' (or set HF_TOKEN, or pass token=) and try again"
                ) from error
            if status >= 500 or status in (408, 429):
                raise OfflineError(f"{repo}: the hub answered {status}; try again later") from error
            raise HubError(f"{repo}: the hub answered {status} ({first_line(error)})") from error
        except hub.HFValidationError as error:
            raise InputError(f"{repo!r}: not a hub id ({first_line(error)})") from error
        except Exception as error:
            unreachable = isinstance(error, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled))
            if unreachable or type(error).__module__.startswith(("httpx", "httpcore")):
                if self.offline or isinstance(error, hub.OfflineModeIsEnabled):
                    raise OfflineError(_not_cached(repo, revision)) from error
                raise OfflineError(
                    f"{repo}: is no folder here, is not cached, and {self.endpoint} cannot be reached; check the name "
                    "and the network, or download it elsewhere and pass its folder"
                ) from error
            if not isinstance(error, OSError) or isinstance(error, SatTxtError) or error.errno is not None:
                raise  # ours, or (with a number) a matter of this machine's disk
            raise HubError(f"{repo}: the download broke off ({first_line(error)}); run the command again") from error


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name is one of ``patterns``, or fits one such as ``"*.json"``; ``*`` does not cross a slash."""
    return any(name == each or (name.count("/") == each.count("/") and fnmatch(name, each)) for each in patterns)


def _not_cached(what: str, revision: str | None) -> str:
    return (
        f"{what} (revision {revision or 'main'}) is not cached and nothing may be downloaded: connect once without "
        "local_files_only and HF_HUB_OFFLINE, or download it elsewhere and pass its folder"
    )
