"""Data files come in: from the package, from a folder that the user has, or from the network; always by sha256.

cache/data/<sha256>   a downloaded file, whole and verified
"""

import importlib.resources
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline import hashes
from pipeline.download import Altered, Refused, Unreachable, download
from pipeline.errors import ConfigError, DataError

# A stand-in server on this very machine may speak plainly.
_URL = re.compile(r"https://.+|http://(127\.0\.0\.1|localhost)(:\d+)?/.*")


def obtain(files: Mapping[str, Mapping], *, data: Path | None, cache: Path) -> dict[str, Path]:
    """{logical name: a file on this machine} for the `files` of a data set's YAML.

    files   {name: {path, url, sha256}} and perhaps `notice`, a sentence on the licence that is printed at the download, or {name: {package: name inside pipeline/pocket, sha256}} for embedded sets
    data    the user's folder of data sets, in which `path` is looked up; null = download `url`
    cache   keeps downloads

    Raises DataError for a file that is missing, altered or out of reach; ConfigError for a malformed entry.
    """
    return {
        name: _one(name, entry, None if data is None else Path(data).expanduser(), Path(cache))
        for name, entry in files.items()
    }


def missing(files: Mapping[str, Mapping], *, data: Path | None, cache: Path) -> list[str]:
    """The logical names that `obtain` would have to download; opens no file."""
    return [
        name
        for name, entry in files.items()
        if "package" not in entry and data is None and not (Path(cache) / "data" / entry["sha256"]).is_file()
    ]


def _one(name: str, entry: Mapping, data: Path | None, cache: Path) -> Path:
    expected = str(entry.get("sha256"))
    if not re.fullmatch("[0-9a-f]{64}", expected):
        raise ConfigError(
            f"the file {name} of a data set needs sha256, 64 hex digits, came {expected}; mend its YAML in conf/"
        )
    if "package" in entry:
        return _verified(
            _packaged(entry["package"]),
            expected,
            cache,
            "this installation is damaged or was edited: install it again, or mend sha256 in its YAML",
        )
    if data is not None:
        file = data / entry["path"]
        if not file.is_file():
            raise DataError(
                f"{file} is missing: expected {entry['path']} in the folder of the key data; put it there, "
                f"or leave data out to download it{' from ' + entry['url'] if 'url' in entry else ''}"
            )
        return _verified(file, expected, cache, "replace it by the published file, or leave data out to download it")
    return _downloaded(name, entry, expected, cache)


def _packaged(name: str) -> Path:
    file = Path(str(importlib.resources.files("pipeline") / "pocket" / name))
    if not file.is_file():
        raise DataError(f"{file} is missing: the embedded data sets are part of this package; install it again")
    return file


def _downloaded(name: str, entry: Mapping, expected: str, cache: Path) -> Path:
    url = entry.get("url")
    if url is None:
        raise DataError(
            f"the file {name} of a data set is read from a folder only: give data=DIR, with {entry['path']} in it"
        )
    if not _URL.fullmatch(url):
        raise ConfigError(
            f"the file {name} of a data set has the url {url}, expected https://…; mend its YAML in conf/"
        )
    target = cache / "data" / expected
    if entry.get("notice") and not target.is_file():
        print(f"downloading {name}: {entry['notice']}", file=sys.stderr, flush=True)
    if target.is_file() and hashes.cached_sha256(target, cache) != expected:
        target.unlink()  # our own copy has rotted; the published file is fetched again below
    try:
        return download(url, target, f"sha256:{expected}", label=Path(entry["path"]).name)
    except Altered as error:
        raise DataError(
            f"{url} is not the file that was meant: expected {error.expected}, came {error.came}; get the "
            f"published file, put it at {entry['path']} in a folder, and set data to that "
            f"folder"
        ) from error
    except Refused as error:
        raise DataError(
            f"{error}: get the file elsewhere (sha256 {expected}), put it at {entry['path']} in a folder, "
            f"and set data to that folder"
        ) from error
    except Unreachable as error:
        raise DataError(
            f"the file {name} is not on this machine and cannot be downloaded ({error}): get {url} on a "
            f"machine with network, put it at {entry['path']} in a folder, and set data to that "
            f"folder"
        ) from error


def _verified(file: Path, expected: str, cache: Path, advice: str) -> Path:
    came = hashes.cached_sha256(file, cache)
    if came != expected:
        raise DataError(f"{file} is not the file that was meant: expected sha256 {expected}, came {came}; {advice}")
    return file
