# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository whose files are in an object store."""

from __future__ import annotations

import shutil

import pytest
import yaml
from batch_builders import assert_equal_contents, execute, make_survey, pipetask_command, read_contents

from lsst.daf.butler import Butler

pytestmark = pytest.mark.slow

RUN = "u/test/run"


@pytest.fixture
def store(monkeypatch):
    """Return a client of a server of S3, with a bucket."""
    boto3, moto = (pytest.importorskip(name) for name in ("boto3", "moto.server"))
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    # lsst.resources has the first, and s3fs the second.
    for name in ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def test_tables_are_those_of_a_local_repository(store, tmp_path):
    local, remote = make_survey(tmp_path / "local"), tmp_path / "remote"
    shutil.copytree(local, remote)
    _move_files(remote, store)
    for repo in (local, remote):
        execute("pipetask", *pipetask_command(repo, RUN))
    with Butler.from_config(str(remote), collections=RUN) as butler:
        refs = butler.query_datasets("tno_cutouts")
        assert {butler.getURI(ref).scheme for ref in refs} == {"s3"}
    assert_equal_contents(read_contents(remote, RUN), read_contents(local, RUN))


def _move_files(repo, store):
    """Move the files of a repository into a bucket."""
    path = repo / "butler.yaml"
    config = yaml.safe_load(path.read_text())
    config["datastore"]["root"] = "s3://bucket/data"
    path.write_text(yaml.safe_dump(config))
    files = [file for file in repo.glob("*/**/*") if file.is_file()]
    assert files
    for file in files:
        store.upload_file(str(file), "bucket", f"data/{file.relative_to(repo)}")
        file.unlink()
