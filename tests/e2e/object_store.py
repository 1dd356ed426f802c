"""A real S3 server on loopback (moto's), in a process of its own, and a gate before it that lets requests fail on purpose."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3

KEY, SECRET = "AKIAAUTOPOLYTESTKEY", "secret/of/the+tests/never-written-anywhere"


@contextlib.contextmanager
def server(log: Path) -> Iterator[str]:
    """Run the server and give its address; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            limit = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < limit
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def client(endpoint: str):
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET)


def upload(store, bucket: str, folder: Path, prefix: str) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.put_object(Bucket=bucket, Key=f"{prefix}/{file.relative_to(folder).as_posix()}", Body=file.read_bytes())


def names(store, bucket: str, prefix: str) -> list[str]:
    """List the objects below a prefix, by the rest of their keys; markers of empty folders do not count."""
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [one["Key"] for page in pages for one in page.get("Contents", []) if not one["Key"].endswith("/")]
    return [key.removeprefix(f"{prefix}/") for key in keys]


def contents(store, bucket: str, prefix: str) -> dict[str, bytes]:
    """Read all objects below a prefix, by their :func:`names`. Not beside a run: an object may go between its name and its bytes."""
    return {name: store.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read() for name in names(store, bucket, prefix)}


def demand_credentials(endpoint: str) -> None:
    """Make the server check every signature from here on."""
    asked = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(asked).read()


@contextlib.contextmanager
def gate(endpoint: str, refuse: Callable[[str, str], bool]) -> Iterator[str]:
    """Pass requests on to a server, but answer 503 where ``refuse`` (of method and path) says so; give the gate's address."""
    host = endpoint.removeprefix("http://")

    class Gate(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if refuse(self.command, self.path):
                self.answer(503, {}, b"" if self.command == "HEAD" else b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                return
            link = http.client.HTTPConnection(host, timeout=60)
            link.request(self.command, self.path, body, dict(self.headers))
            reply = link.getresponse()
            self.answer(reply.status, dict(reply.getheaders()), reply.read())
            link.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            length = headers.get("Content-Length", str(len(body)))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()


def environment(endpoint: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Give what a process needs in its environment to reach the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
