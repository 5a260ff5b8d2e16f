"""The rows of a task's file, checked before lm-eval sees them."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import DataError


def check(path: Path, may_be_null: Collection[str] = ()) -> int:
    """The number of rows of a jsonl file in which every row has the same columns, of the same types, none null.

    may_be_null  columns that no prompt looks at

    The `json` loader of datasets fills a missing column with null and takes mixed types as they come, and the prompt
    then reads "None" or "['q']": an item that nobody wrote would be asked and judged.

    Raises: DataError, naming the file and the row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} should be a readable jsonl file in UTF-8, found {error}") from error
    columns = None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, row {number}: expected one JSON object, found {line[:60]!r} ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected a JSON object, found {line[:60]!r}")
        for name in may_be_null:
            row.pop(name, None)
        empty = [name for name, value in row.items() if value is None]
        if empty:
            raise DataError(f"{path}, row {number}: expected a value for {', '.join(empty)}, found null")
        types = {name: type(value).__name__ for name, value in row.items()}
        columns = columns or types
        if types != columns:
            raise DataError(
                f"{path}, row {number}: expected the columns of row 1, {_named(columns)}, found {_named(types)}"
            )
    if not lines:
        raise DataError(f"{path} should have at least one row, found none")
    return len(lines)


def _named(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items()))


def pages(path: Path, folder: Path) -> Path:
    """WikiText's raw text as one row an article, as the hub's document level has it: a jsonl file in `folder`.

    An article begins at a heading of the first level, " = Title = "; two lines of formulae look like one, on the hub too,
    so that the test split has 62. A file whose empty lines were taken out gives texts without them, and so another
    perplexity than the hub's.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} should be WikiText's raw text in UTF-8, found {error}") from error
    found: list[list[str]] = []
    for line in lines:
        if re.fullmatch(r" = [^=].*[^=] = \n", line):
            found.append([])
        if found:
            found[-1].append(line)
    if not found:
        raise DataError(f"{path} should hold articles that begin with ' = Title = ', found none")
    made = folder / "pages.jsonl"
    made.write_text("".join(json.dumps({"page": "".join(page)}) + "\n" for page in found), encoding="utf-8")
    return made


def mbpp_test(dataset):
    """MBPP's test problems, task_id 11 to 510: the published file has all of them."""
    return dataset.filter(lambda row: 11 <= row["task_id"] <= 510)


def mbpp_examples() -> list[dict]:
    """MBPP's three problems for prompting, task_id 2, 3 and 4, as lm-eval gives them."""
    return [
        {
            "task_id": 2,
            "text": "Write a function to find the similar elements from the given two tuple lists.",
            "code": "def similar_elements(test_tup1, test_tup2):\r\n  res = tuple(set(test_tup1) & set(test_tup2))\r\n  return (res) ",
            "test_list": [
                "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
                "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)",
                "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)",
            ],
            "is_fewshot": True,
        },
        {
            "task_id": 3,
            "text": "Write a python function to identify non-prime numbers.",
            "code": "import math\r\ndef is_not_prime(n):\r\n    result = False\r\n    for i in range(2,int(math.sqrt(n)) + 1):\r\n        if n % i == 0:\r\n            result = True\r\n    return result",
            "test_list": [
                "assert is_not_prime(2) == False",
                "assert is_not_prime(10) == True",
                "assert is_not_prime(35) == True",
            ],
            "is_fewshot": True,
        },
        {
            "task_id": 4,
            "text": "Write a function to find the largest integers from a given list of numbers using heap queue algorithm.",
            "code": "import heapq as hq\r\ndef heap_queue_largest(nums,n):\r\n  largest_nums = hq.nlargest(n, nums)\r\n  return largest_nums",
            "test_list": [
                "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65] ",
                "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],2)==[85, 75] ",
                "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],5)==[85, 75, 65, 58, 35]",
            ],
            "is_fewshot": True,
        },
    ]
