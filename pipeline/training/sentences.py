"""The reader of this project's own training sentences, and what every set of them is read as."""

import json
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError


class Pair(NamedTuple):
    """One text in two ways: as the stereotype has it, and against it."""

    id: str
    bias_type: str
    cluster: str  # what pairs of one template share
    stereotype: str
    anti_stereotype: str


def read(files: dict[str, Path]) -> list[Pair]:
    """One JSON object a line: id, template, bias_type, context with BLANK, stereotype, anti_stereotype."""
    (path,) = files.values()
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            context = row["context"]
            if context.count("BLANK") != 1:
                raise ValueError("context should hold BLANK once")
            pairs.append(
                Pair(
                    str(row["id"]),
                    row["bias_type"],
                    str(row["template"]),
                    context.replace("BLANK", row["stereotype"]),
                    context.replace("BLANK", row["anti_stereotype"]),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path.name}, line {number}: expected id, template, bias_type, context with BLANK, stereotype and "
                f"anti_stereotype, found {error}"
            ) from error
    return pairs
