"""Names, values and messages as MLflow takes them."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

TAG_LENGTH, PARAM_LENGTH, NAME_LENGTH = 8000, 6000, 250  # MLflow's own limits
NOTE = "mlflow.note.content"


def mended(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under names that MLflow takes: words, and . - / : and spaces, and no path that means another one."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        plain = re.sub(r"[^\w.\-/: ]", "_", str(name))
        plain = "/".join(part for part in plain.split("/") if part.strip(". "))[: NAME_LENGTH - 4] or "_"
        same = sum(other == plain or re.fullmatch(re.escape(plain) + r"_\d+", other) is not None for other in found)
        found[plain if plain not in found else f"{plain}_{same + 1}"] = value
    return found


def text_of(value: Any) -> str:
    """A value as it stands in YAML; null is `none`, an empty text would leave a hole in the table."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)


def cut(text: str, length: int) -> str:
    """Both ends of a text that is too long: of a traceback the last line says most."""
    if len(text) <= length:
        return text
    head = (length - 3) // 3
    return text[:head] + "\n…\n" + text[len(text) - (length - 3 - head) :]


def cut_lines(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    more = "\n\n… the whole table is in the artifact table.md"
    return text[: length - len(more)].rpartition("\n")[0] + more


def sentence(cause: Exception) -> str:
    lines = str(cause).strip().splitlines()
    return (lines[0][:300] if lines else "") or type(cause).__name__


def shown(uri: str | None) -> str:
    """The address without a password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", str(uri))
