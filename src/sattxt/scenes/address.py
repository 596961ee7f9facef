"""Where files lie, on this machine or elsewhere: what messages call them, and whether they have changed."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import urllib.request
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from sattxt.errors import MissingExtraError, SceneError, import_extra
from sattxt.io import first_line

_ARCHIVE = re.compile(r"(.*?\.(?:zip|tar))(?:[/!].*)?$", re.IGNORECASE)
_BUCKETS = ("s3://", "gs://", "az://", "abfs://", "abfss://", "adl://")


def hide_credentials(text: str, address: str = "") -> str:
    """A text without the users, passwords and signatures (all that follows "?") of addresses in it.

    Args:
        address: that the text is about; it may call it by its last part.
    """
    _, mark, query = address.partition("?")
    if query and "://" in address:
        text = text.replace(mark + query, "")
    text = re.sub(r"(?<=://)[^/\s]*@", "", text)
    return re.sub(r"(://[^\s?]*)\?[^\s'\"]*", r"\1", text)


def local_file(name: str) -> str | None:
    """The file on this machine that GDAL reads ``name`` from, for a member of an archive the archive; else ``None``."""
    if name.startswith(("file://", "zip://", "tar://")):
        archive = _ARCHIVE.match(name.partition("://")[2])
        return archive[1] if archive and not name.startswith("file") else unquote(name.removeprefix("file://"))
    if "://" in name:
        return None
    if name.startswith("/vsi"):
        archive = _ARCHIVE.match(re.sub("^(/vsi(?:zip|tar)/)+", "", name))
        return archive[1] if archive and name.startswith(("/vsizip/", "/vsitar/")) else None
    return name


def sign_files(names: Iterable[str]) -> str:
    """16 hex digits that change with any of the files: of size and time of change, or of what a server tells.

    Raises:
        SceneError: a file is not there, or its server does not answer.
    """
    lines = []
    for name in dict.fromkeys(names):
        file = local_file(name)
        if file is None:
            lines.append(f"{hide_credentials(name)} {_remote_version(name)}")
            continue
        try:
            state = os.stat(file)
        except (OSError, ValueError) as error:
            raise SceneError(f"{hide_credentials(name)}: no such file") from error
        lines.append(f"{os.path.basename(name)} {state.st_size} {state.st_mtime_ns}")  # wherever it is moved to
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _remote_version(address: str) -> str:
    """What changes with the file at an address: its ETag, else its size and date; "" where nobody can be asked."""
    try:
        if address.startswith(("http://", "https://")):
            return _http_version(address)
        if address.startswith(_BUCKETS):
            return _bucket_version(address)
    except MissingExtraError:
        raise
    except Exception as error:  # obstore raises a kind for each cause, and so does urllib
        reason = hide_credentials(first_line(error))
        raise SceneError(f"{hide_credentials(address)}: cannot be reached ({reason})") from error
    return ""


def _bucket_version(address: str) -> str:
    purpose = "a scene in an object store"
    folder, _, name = address.rpartition("/")
    store = import_extra("obstore.store", "cloud", "obstore", purpose).from_url(folder)
    found = import_extra("obstore", "cloud", "obstore", purpose).head(store, name)
    return str(found["e_tag"] or (found["size"], found["last_modified"]))


def _http_version(address: str) -> str:
    """Asked by GET, for the first byte alone: signed addresses allow no HEAD."""
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers={"Range": "bytes=0-0"})
    if at:
        request.add_header("Authorization", f"Basic {base64.b64encode(unquote(user).encode()).decode()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        told = answer.headers
        size = (told.get("Content-Range") or "").rpartition("/")[2] or told.get("Content-Length")
        return str(told.get("ETag") or (size, told.get("Last-Modified")))
