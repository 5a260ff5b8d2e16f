"""Rows of a data file, each with its place, so that a complaint can name file and row."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError

HINT = "give the original under data=DIR"


def json_rows(path: Path, hint: str = HINT) -> Iterator[tuple[str, dict]]:
    """(place, object) for every line of a JSON-lines file. Raises DataError for what cannot be read."""
    # not splitlines(): it also breaks at U+2028 and its kin, which JSON strings may hold
    for number, line in enumerate(_text(path, hint).removesuffix("\n").split("\n"), 1):
        place = f"{path.name} row {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{place} should be one JSON object and cannot be parsed ({error}): "
                f"the file is cut short or altered, {hint}"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{place} should be one JSON object and is a {type(row).__name__}: {hint}")
        yield place, row


def json_document(path: Path, hint: str = HINT) -> dict:
    """The one object of a JSON file. Raises DataError for what cannot be read."""
    try:
        document = json.loads(_text(path, hint))
    except ValueError as error:
        raise DataError(
            f"{path.name} should be one JSON object and cannot be parsed ({error}): "
            f"the file is cut short or altered, {hint}"
        ) from None
    if not isinstance(document, dict):
        raise DataError(f"{path.name} should be one JSON object and is a {type(document).__name__}: {hint}")
    return document


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, text) for every line of a text file that has any. Raises DataError for what cannot be read."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield f"{path.name} line {number}", line.strip()


def csv_rows(
    path: Path, columns: tuple[str, ...], separator: str = ",", quoted: bool = True, hint: str = HINT
) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) for every record of a CSV file that has at least `columns`. Raises DataError otherwise.

    quoted  whether a quotation mark encloses a field; without, it is a letter like any other
    """
    # strict: an unclosed quotation at the end of a file that was cut short is otherwise taken for a last field
    reader = csv.reader(
        io.StringIO(_text(path, hint), newline=""),
        strict=True,
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    try:
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise DataError(
                f"{path.name} should have the columns {', '.join(map(repr, columns))} and lacks "
                f"{', '.join(map(repr, missing))}: {hint}"
            )
        for number, fields in enumerate(reader, 1):
            if len(fields) != len(header):
                raise DataError(
                    f"{path.name} row {number} should have {len(header)} fields and has {len(fields)}: "
                    f"the file is cut short or altered, {hint}"
                )
            yield f"{path.name} row {number}", dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path.name} line {reader.line_num} is not CSV ({error}): the file is cut short or altered, {hint}"
        ) from None


def _text(path: Path, hint: str = HINT) -> str:
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): set data=DIR to the folder that holds it, "
            f"or data=null to download it"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} should be UTF-8 and is not at byte {error.start}: {hint}") from None
    if not text.strip():
        raise DataError(f"{path.name} is empty: {hint}")
    return text
