"""Data files: found, downloaded, resumed, refused."""

import hashlib
import random

import pytest

from pipeline import datafiles, download, hashes
from pipeline.errors import ConfigError, DataError, StoreError
from tests.stand_in import serving

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    with serving() as running:
        running.files["/set/dev.json"] = CONTENT
        yield running


def entry(server, **changes):
    return {"items": {"path": "set/dev.json", "url": f"{server.url}/set/dev.json", "sha256": SHA256} | changes}


def test_a_file_is_downloaded_once(server, tmp_path):
    for _ in range(2):
        assert datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"].read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_a_licence_is_told_once_when_the_file_is_fetched(server, tmp_path, capsys):
    for _ in range(2):
        datafiles.obtain(entry(server, notice="for non-commercial use only"), data=None, cache=tmp_path)
    assert capsys.readouterr().err.count("for non-commercial use only") == 1


def test_missing_names_what_has_to_be_downloaded(server, tmp_path):
    assert datafiles.missing(entry(server), data=None, cache=tmp_path) == ["items"]
    datafiles.obtain(entry(server), data=None, cache=tmp_path)
    assert datafiles.missing(entry(server), data=None, cache=tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_ended(server, tmp_path, ranges):
    server.ranges = ranges
    server.cuts["/set/dev.json"] = [200_000, 70_000]
    assert datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"].read_bytes() == CONTENT
    assert server.asked[0][1] is None and all(asked.startswith("bytes=") for _, asked in server.asked[1:])


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts["/set/dev.json"] = [200_000, 0, 0, 0]
    with pytest.raises(DataError, match="cannot be downloaded"):
        datafiles.obtain(entry(server), data=None, cache=tmp_path)
    have = next(tmp_path.rglob("*.part")).stat().st_size
    assert have > 100_000
    assert datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"].read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={have}-"


@pytest.mark.parametrize("beginning", [b"x" * 1000, b"x" * 300_000, CONTENT + b"x", CONTENT])
def test_a_wrong_beginning_is_thrown_away_and_a_whole_one_taken(server, tmp_path, beginning):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{SHA256}.part").write_bytes(beginning)
    assert datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"].read_bytes() == CONTENT


def test_an_answer_of_503_is_asked_again_and_404_is_not(server, tmp_path):
    server.statuses["/set/dev.json"] = [503, 502]
    datafiles.obtain(entry(server), data=None, cache=tmp_path)
    with pytest.raises(DataError, match="answers 404.*set data to that folder"):
        datafiles.obtain(entry(server, url=server.url + "/none", sha256="0" * 64), data=None, cache=tmp_path)


def test_an_altered_file_is_refused_and_leaves_nothing(server, tmp_path):
    server.files["/set/dev.json"] = CONTENT + b"\n"
    with pytest.raises(DataError, match=f"expected sha256:{SHA256}, came sha256:.*set data"):
        datafiles.obtain(entry(server), data=None, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix != ".lock" and path.is_file()]


def test_a_rotten_cache_is_fetched_again(server, tmp_path):
    file = datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"]
    file.write_bytes(b"x" + CONTENT[1:])
    assert datafiles.obtain(entry(server), data=None, cache=tmp_path)["items"].read_bytes() == CONTENT


def test_offline_the_url_and_the_key_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    with serving() as gone:
        files = entry(gone)
    with pytest.raises(
        DataError, match=r"cannot be downloaded .*/set/dev.json .* set/dev.json in a folder, and set data"
    ):
        datafiles.obtain(files, data=None, cache=tmp_path)


def test_the_hubs_offline_switch_holds_here_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        datafiles.obtain(entry(server), data=None, cache=tmp_path)
    assert not server.asked


def test_the_folder_of_the_key_data_comes_first(server, tmp_path):
    (tmp_path / "own" / "set").mkdir(parents=True)
    (tmp_path / "own" / "set" / "dev.json").write_bytes(CONTENT)
    found = datafiles.obtain(entry(server), data=tmp_path / "own", cache=tmp_path)
    assert found["items"] == tmp_path / "own" / "set" / "dev.json" and not server.asked
    found["items"].write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(DataError, match="expected sha256 .* came .* leave data out"):
        datafiles.obtain(entry(server), data=tmp_path / "own", cache=tmp_path)
    found["items"].unlink()
    with pytest.raises(DataError, match="dev.json is missing: .* key data"):
        datafiles.obtain(entry(server), data=tmp_path / "own", cache=tmp_path)


def test_embedded_files(tmp_path, monkeypatch):
    (tmp_path / "pocket").mkdir()
    (tmp_path / "pocket" / "a.jsonl").write_text("{}\n")
    monkeypatch.setattr(datafiles.importlib.resources, "files", lambda package: tmp_path)
    spec = {"items": {"package": "a.jsonl", "sha256": hashes.sha256(tmp_path / "pocket" / "a.jsonl")}}
    assert datafiles.obtain(spec, data=None, cache=tmp_path / "c")["items"].read_text() == "{}\n"
    assert datafiles.obtain(spec, data=tmp_path / "elsewhere", cache=tmp_path / "c")["items"].is_file()
    assert datafiles.missing(spec, data=None, cache=tmp_path) == []
    (tmp_path / "pocket" / "a.jsonl").write_text("{ }\n")
    with pytest.raises(DataError, match="is not the file that was meant"):
        datafiles.obtain(spec, data=None, cache=tmp_path / "c")
    (tmp_path / "pocket" / "a.jsonl").unlink()
    with pytest.raises(DataError, match="install it again"):
        datafiles.obtain(spec, data=None, cache=tmp_path / "c")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"url": "http://example.org/a"}, "expected https"),
        ({"sha256": "abc"}, "64 hex digits"),
        ({"url": "file:///etc/passwd"}, "expected https"),
    ],
)
def test_malformed_entries(tmp_path, changes, said):
    spec = {"items": {"path": "a", "url": "https://example.org/a", "sha256": SHA256} | changes}
    with pytest.raises(ConfigError, match=said):
        datafiles.obtain(spec, data=None, cache=tmp_path)


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(StoreError, match="no space left .* key store"):
        datafiles.obtain(entry(server), data=None, cache=tmp_path)
