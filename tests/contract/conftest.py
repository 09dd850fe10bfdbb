"""A real S3 server on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from clipsearch.archives import remote
from tests.support.storage import BUCKET, Wire


@pytest.fixture(scope="session")
def descriptions() -> Iterator[None]:
    """Read what describes S3 to its clients once, not for each: a quarter of a second of processor time."""
    loaders = pytest.importorskip("botocore.loaders")
    with pytest.MonkeyPatch.context() as patch:
        read = loaders.JSONFileLoader.load_file
        once = cache(lambda path: read(loaders.JSONFileLoader(), path))
        patch.setattr(loaders.JSONFileLoader, "load_file", lambda _, path: once(path))
        yield


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, descriptions: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server with an empty bucket, and an environment in which that server is S3."""
    boto3 = pytest.importorskip("boto3")

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    remote._STORAGES.clear()
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield client
    while found := client.list_objects_v2(Bucket=BUCKET).get("Contents"):
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": one["Key"]} for one in found]})
    client.delete_bucket(Bucket=BUCKET)
    remote._STORAGES.clear()


@pytest.fixture
def wire(s3: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """What lies between clipsearch and the server, and a server whose pages are short."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    with Wire(endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        yield between
