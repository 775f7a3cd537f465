# This file is part of meas_tno.
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of queries of JPL's database, and of ``butler ingest-tno-orbits``."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from click.testing import CliRunner, Result

from lsst.daf.butler import Butler, CollectionType, DatasetType
from lsst.meas.tno import SCHEMAS, validate_table
from lsst.meas.tno.cli import get_cli_subcommands
from lsst.meas.tno.orbits import SbdbError, _sbdb, fetch_sbdb, query_sbdb, read_orbits

FIELDS = ("full_name", "class", "epoch", "e", "q", "i", "om", "w", "tp", "H", "G", "M1", "K1")
DATA = (
    [" 15760 Albion (1992 QB1)", "TNO", "2461200.5", ".07115576", "40.99", "2.18", "359.5", "6.37"]
    + ["2450373.98", "7.18", None, None, None],
    ["       (2020 MQ53)", "TNO", "2461200.5", "1.001054", "53.43", "72.8", "287.1", "29.5"]
    + ["2466937.71", "8.6", ".15", None, None],
    ["       (2021 ZZ)", "TNO", "2461200.5", None, "53.43", "72.8", "287.1", "29.5"]
    + ["2466937.71", "8.6", ".15", None, None],
)
GOOD = {"signature": {"version": "1.0"}, "fields": FIELDS, "data": DATA, "count": len(DATA)}
TABLE = "name,epoch,q,e,i,node,peri,tp\nA,61000,40,0.1,5,10,20,60000\nB,61000,40,0.1,-5,10,20,60000\n"


class FakeSbdb:
    """A server on this machine, which gives its answers in turn."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.delay = 0.0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.queries.append(parse_qs(urlsplit(self.path).query))
                time.sleep(fake.delay)
                status, body = fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/sbdb_query.api"

    def answer(self, *answers: tuple[int, object]) -> None:
        """Set the answers; the last is repeated."""
        self.answers = [
            (status, body if isinstance(body, bytes) else json.dumps(body).encode())
            for status, body in answers
        ]


@pytest.fixture
def sbdb(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSbdb]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = FakeSbdb()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.server.shutdown()
    thread.join()
    fake.server.server_close()


def closed_url() -> str:
    """Return an address that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/sbdb_query.api"


@pytest.fixture
def repo(tmp_path: Path) -> str:
    path = str(tmp_path / "repo")
    Butler.makeRepo(path)
    return path


@pytest.fixture
def table_file(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return str(path)


def invoke(*args: str) -> Result:
    (command,) = (c for c in get_cli_subcommands() if c.name == "ingest-tno-orbits")
    return CliRunner().invoke(command, list(args))


def assert_one_line_error(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert all(part in result.output for part in parts), result.output


def datasets(repo: str) -> list[str]:
    with Butler.from_config(repo) as butler:
        refs = butler.registry.queryDatasets("*", collections="*") if butler.collections.query("*") else ()
        return [f"{ref.run}:{ref.datasetType.name}" for ref in refs]


def test_query(sbdb: FakeSbdb, tmp_path: Path) -> None:
    sbdb.answer((200, GOOD))
    catalog = query_sbdb("TNO", url=sbdb.url, save_as=tmp_path / "TNO.json")
    (query,) = sbdb.queries
    assert query == {"fields": [",".join(FIELDS)], "sb-class": ["TNO"], "full-prec": ["true"]}
    validate_table(catalog.orbits, SCHEMAS["tno_orbits"])
    assert list(catalog.orbits["name"]) == ["15760 Albion (1992 QB1)", "2020 MQ53"]
    assert [(row.line, row.reason) for row in catalog.rejected] == [(3, "e is missing.")]
    assert list(read_orbits(tmp_path / "TNO.json").orbits["tp"]) == list(catalog.orbits["tp"])


def test_query_is_retried(sbdb: FakeSbdb) -> None:
    sbdb.answer((503, b"busy"), (502, b""), (200, GOOD))
    assert json.loads(fetch_sbdb("HYA", url=sbdb.url, backoff=0.01))["count"] == 3
    assert len(sbdb.queries) == 3


@pytest.mark.parametrize(
    ("status", "body", "message", "n_queries"),
    [
        (503, b"<html>\nbusy</html>", "status 503, not with orbits: <html> busy</html>", 3),
        (400, {"message": "invalid value"}, "status 400, not with orbits: invalid value", 1),
        (200, b"<html>moved</html>", "not with orbits: <html>moved", 1),
        (200, {"count": 0}, "no orbits of class PAR", 1),
        (200, GOOD | {"count": "7296"}, "sent 3 of 7296 orbits", 1),
    ],
)
def test_answers_without_orbits(
    sbdb: FakeSbdb, status: int, body: object, message: str, n_queries: int
) -> None:
    sbdb.answer((status, body))
    with pytest.raises(SbdbError, match=message):
        fetch_sbdb("PAR", url=sbdb.url, retries=2, backoff=0.01)
    assert len(sbdb.queries) == n_queries


def test_query_times_out(sbdb: FakeSbdb) -> None:
    sbdb.answer((200, GOOD))
    sbdb.delay = 0.5
    with pytest.raises(SbdbError, match="cannot be reached.*[Tt]imed out"):
        fetch_sbdb("TNO", url=sbdb.url, retries=1, backoff=0.01, timeout=(1.0, 0.1))
    assert len(sbdb.queries) == 2


def test_without_a_connection_the_error_says_what_to_do() -> None:
    url = closed_url()
    with pytest.raises(SbdbError, match="download http.*sb-class=TNO.*ingest it as FILE") as info:
        fetch_sbdb("TNO", url=url, retries=0)
    assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match="MBA"):
        fetch_sbdb("MBA", url=url)


def test_help_shows_examples() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "butler ingest-tno-orbits REPO Distant.txt" in result.output
    assert "pipetask run -i tno/orbits,..." in result.output


def test_files_and_synthetic_orbits_are_ingested(
    repo: str, table_file: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "lsst.meas.tno.orbits"):
        result = invoke(repo, table_file, "--synthetic", "20", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "Wrote 21 orbits" in result.output
    assert "rejected 1 rows" in result.output
    assert f"Left out {table_file}:3: i=-5 deg is not between 0 and 180. 'B,61000" in caplog.text
    with Butler.from_config(repo, collections="tno/orbits") as butler:
        orbits = butler.get("tno_orbits")
        assert butler.get_dataset_type("tno_orbits").storageClass_name == "ArrowAstropy"
        assert butler.collections.get_info("tno/orbits").type is CollectionType.RUN
    validate_table(orbits, SCHEMAS["tno_orbits"])
    assert orbits["name"][0] == "A"
    assert list(orbits["epoch"][:2]) == [61000.0, 61000.0]


def test_existing_orbits_are_replaced_only_if_told(repo: str, table_file: str) -> None:
    assert invoke(repo, table_file).exit_code == 0
    assert_one_line_error(invoke(repo, "--synthetic", "5"), "already exists in tno/orbits", "--run")
    assert invoke(repo, "--synthetic", "5", "--run", "tno/orbits/2").exit_code == 0
    assert invoke(repo, "--synthetic", "7", "--replace").exit_code == 0
    with Butler.from_config(repo) as butler:
        assert len(butler.get("tno_orbits", collections="tno/orbits")) == 7
        assert len(butler.get("tno_orbits", collections="tno/orbits/2")) == 5
    assert len(datasets(repo)) == 2


def test_rejected_rows_are_reported(repo: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "many.csv"
    path.write_text(TABLE + "C\n" * 30)
    assert invoke(repo, str(path)).exit_code == 0
    messages = [record.getMessage() for record in caplog.records if record.name == "lsst.meas.tno.orbits"]
    assert sum("many.csv:" in message for message in messages) == 31
    # Objects that another file has too are reported up to a limit.
    row = TABLE.splitlines()[1][1:]
    path.write_text(TABLE.splitlines()[0] + "\n" + "".join(f"X{i}{row}\n" for i in range(25)))
    caplog.clear()
    assert invoke(repo, str(path), str(path), "--replace").exit_code == 0
    messages = [record.getMessage() for record in caplog.records if record.name == "lsst.meas.tno.orbits"]
    assert "Left out 5 more rows." in messages


def test_format_can_be_given(repo: str, table_file: str) -> None:
    assert invoke(repo, table_file, "--format", "table").exit_code == 0
    assert_one_line_error(invoke(repo, table_file, "--format", "mpcorb", "--replace"), table_file)


@pytest.fixture
def sbdb_cli(sbdb: FakeSbdb, monkeypatch: pytest.MonkeyPatch) -> FakeSbdb:
    monkeypatch.setitem(fetch_sbdb.__kwdefaults__, "url", sbdb.url)
    monkeypatch.setitem(fetch_sbdb.__kwdefaults__, "backoff", 0.01)
    monkeypatch.setitem(fetch_sbdb.__kwdefaults__, "retries", 1)
    return sbdb


def test_answers_of_jpl_can_be_ingested_again(sbdb_cli: FakeSbdb, repo: str, tmp_path: Path) -> None:
    comet = ["C/2002 T7 (LINEAR)", *DATA[1][1:]]
    sbdb_cli.answer((200, GOOD), (200, GOOD | {"data": [comet], "count": "1"}))
    folder = tmp_path / "saved"
    folder.mkdir()
    args = (repo, "--sbdb", "TNO", "--sbdb", "HYP", "--save-dir", str(folder))
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    assert [query["sb-class"] for query in sbdb_cli.queries] == [["TNO"], ["HYP"]]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("sbdb_HYP.json", "sbdb_TNO.json", "tno_orbits.csv"),
    ]
    assert_one_line_error(invoke(*args, "--run", "b"), "sbdb_TNO.json", "would be overwritten")
    assert invoke(repo, str(folder / "tno_orbits.csv"), "--run", "csv").exit_code == 0
    json_files = [str(folder / f"sbdb_{name}.json") for name in ("TNO", "HYP")]
    assert invoke(repo, *json_files, "--run", "json").exit_code == 0
    with Butler.from_config(repo) as butler:
        tables = [butler.get("tno_orbits", collections=run) for run in ("tno/orbits", "csv", "json")]
    for column in tables[0].colnames:
        np.testing.assert_array_equal(tables[1][column], tables[0][column])
        if column != "source":
            np.testing.assert_array_equal(tables[2][column], tables[0][column])
    assert len(tables[0]) == 3


def test_classes_without_orbits_are_left_out(
    sbdb_cli: FakeSbdb, repo: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = GOOD | {"data": [], "count": "0"}
    sbdb_cli.answer((200, GOOD), (200, empty))
    assert invoke(repo, "--sbdb", "TNO,PAA", "--save-dir", str(tmp_path)).exit_code == 0
    assert "no orbits of class PAA" in caplog.text
    with Butler.from_config(repo) as butler:
        assert len(butler.get("tno_orbits", collections="tno/orbits")) == 2
    sbdb_cli.answer((200, empty))
    assert_one_line_error(
        invoke(repo, "--sbdb", "PAA,PAR", "--run", "none"), "no orbits of the classes PAA, PAR"
    )


def test_answers_are_kept_if_a_later_query_fails(sbdb_cli: FakeSbdb, repo: str, tmp_path: Path) -> None:
    sbdb_cli.answer((200, GOOD), (400, {"message": "down"}))
    assert_one_line_error(invoke(repo, "--sbdb", "TNO,HYP", "--save-dir", str(tmp_path)), "down")
    assert len(read_orbits(tmp_path / "sbdb_TNO.json").orbits) == 2
    assert datasets(repo) == []


def test_nothing_is_written_if_jpl_does_not_answer(
    repo: str, table_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fetch_sbdb.__kwdefaults__, "url", closed_url())
    monkeypatch.setitem(fetch_sbdb.__kwdefaults__, "retries", 0)
    folder = tmp_path / "saved"
    folder.mkdir()
    result = invoke(repo, table_file, "--sbdb", "TNO", "--save-dir", str(folder))
    assert_one_line_error(result, "cannot be reached", "ingest it as FILE")
    assert list(folder.iterdir()) == []
    assert datasets(repo) == []


def test_errors_are_one_line_and_write_nothing(repo: str, table_file: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("nothing\nof the kind\n")
    assert_one_line_error(invoke(repo), "nothing to ingest")
    assert_one_line_error(invoke(repo, table_file, str(bad)), "bad.txt", "Known are")
    assert_one_line_error(invoke(str(tmp_path / "none"), table_file), "none", "does not exist")
    assert_one_line_error(invoke(repo, "--sbdb", "TNO", "--save-dir", str(tmp_path / "no")), "not a folder")
    assert datasets(repo) == []


def test_other_kinds_of_collection_and_dataset_type(repo: str, table_file: str) -> None:
    with Butler.from_config(repo, writeable=True) as butler:
        butler.collections.register("chain", CollectionType.CHAINED)
        butler.registry.registerDatasetType(
            DatasetType("tno_orbits", ("instrument",), "ArrowAstropy", universe=butler.dimensions)
        )
    assert_one_line_error(invoke(repo, table_file, "--run", "chain"), "chain is a CHAINED collection")
    assert_one_line_error(invoke(repo, table_file), "tno_orbits")
    assert datasets(repo) == []


def test_classes_of_the_command_are_those_of_the_query(sbdb_cli: FakeSbdb, repo: str, tmp_path: Path) -> None:
    sbdb_cli.answer(*[(200, GOOD)] * len(_sbdb.SBDB_CLASSES))
    every = ",".join(_sbdb.SBDB_CLASSES)
    result = invoke(repo, "--sbdb", every, "--save-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(sbdb_cli.queries) == len(_sbdb.SBDB_CLASSES)
    result = invoke(repo, "--sbdb", "TNO,MBA")
    assert result.exit_code == 2
    assert "MBA: choose from TNO" in result.output


def test_what_cannot_be_written_replaces_nothing(
    repo: str, table_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lsst.daf.butler.formatters.parquet.pq.write_table", fail)
        assert_one_line_error(invoke(repo, table_file), "No space left on device")
    with Butler.from_config(repo) as butler:
        assert not list(butler.registry.queryDatasetTypes("*"))
        assert not butler.collections.query("*")
    assert invoke(repo, table_file).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("lsst.daf.butler.formatters.parquet.pq.write_table", fail)
        assert_one_line_error(invoke(repo, "--synthetic", "5", "--replace"), "No space left on device")
    assert datasets(repo) == ["tno/orbits:tno_orbits"]
    with Butler.from_config(repo, collections="tno/orbits") as butler:
        assert list(butler.get("tno_orbits")["name"]) == ["A"]
        assert list(butler.collections.query("*")) == ["tno/orbits"]
    # What a command that was killed has left is no hindrance.
    with Butler.from_config(repo, writeable=True) as butler:
        butler.collections.register("tno/orbits/replacement")
    assert invoke(repo, "--synthetic", "5", "--replace").exit_code == 0
    assert datasets(repo) == ["tno/orbits:tno_orbits"]
