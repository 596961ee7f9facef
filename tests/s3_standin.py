"""A stand-in for an object store that speaks as much of S3 as a store of scenes needs, on this machine."""

from __future__ import annotations

import re
import threading
from collections import Counter
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class S3StandIn:
    """Objects in memory, by ``/bucket/key``. failing: requests of a method that are answered with 503 first."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failing: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), "ETag": '"0"', **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def refused(self) -> bool:
                with standin._lock:
                    standin.calls[self.command] += 1
                    if standin.failing[self.command] <= 0:
                        return False
                    standin.failing[self.command] -= 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply(503)
                return True

            def do_PUT(self) -> None:
                if self.refused():
                    return
                content = self.rfile.read(int(self.headers["Content-Length"]))
                key = unquote(urlsplit(self.path).path)
                with standin._lock:
                    if self.headers.get("If-None-Match") == "*" and key in standin.objects:
                        status = 412
                    else:
                        standin.objects[key], status = content, 200
                self.reply(status)

            def do_GET(self) -> None:
                if self.refused():
                    return
                address = urlsplit(self.path)
                query = parse_qs(address.query)
                if "list-type" in query:
                    self.reply(200, standin.listed(unquote(address.path), query.get("prefix", [""])[0]))
                    return
                content = standin.objects.get(unquote(address.path))
                date = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
                if content is None:
                    self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
                else:
                    self.reply(200, content, Last_Modified=date)

            do_HEAD = do_GET

            def do_DELETE(self) -> None:
                standin.objects.pop(unquote(urlsplit(self.path).path), None)
                self.reply(204)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                bucket = urlsplit(self.path).path.rstrip("/")
                keys = re.findall(r"<Key>(.*?)</Key>", body)
                for key in keys:
                    standin.objects.pop(f"{bucket}/{key}", None)
                gone = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                self.reply(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def listed(self, bucket: str, prefix: str) -> bytes:
        root = bucket.rstrip("/") + "/"
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        found = sorted((key[len(root) :], len(content)) for key, content in self.objects.items())
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{now}</LastModified><ETag>0</ETag><Size>{size}</Size>"
            "</Contents>"
            for key, size in found
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def __enter__(self) -> S3StandIn:
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
