"""Programs of a model run in a process of their own, and cannot do much."""

import os
import time
from pathlib import Path

import pytest

from pipeline.accuracy.code import humaneval, mbpp, passes


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("x = 1", True),
        ("assert 1 == 2", False),
        ("syntax error here", False),
        ("import sys; sys.exit(1)", False),
        ("import sys; sys.exit(0)", False),
        ("exit()", False),
        ("import os; os._exit(0)", False),
        ("if __name__ == '__main__':\n    raise SystemExit", False),
        ("x = 'a' * (1 << 40)", False),
        ("open('f', 'w').write('a' * (1 << 22))", False),
        ("import os; assert not [k for k in os.environ if 'HOME' in k or 'TOKEN' in k]", True),
        ("print('\ud800')", True),
    ],
)
def test_a_program_passes_if_it_ends_well(program, wanted):
    assert passes(program) is wanted


def test_an_endless_program_ends_and_so_do_its_children(tmp_path):
    mark = tmp_path / "pid"
    program = (
        f"import os\nif os.fork() == 0:\n    open({str(mark)!r}, 'w').write(str(os.getpid()))\nwhile True:\n    pass\n"
    )
    assert passes(program, seconds=1) is False
    child = int(mark.read_text())
    for _ in range(50):
        try:
            if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
                break
            os.kill(child, 0)
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child lives on")


def test_verdicts_by_hand():
    doc = {"prompt": "def f(x):\n", "test": "def check(f):\n    assert f(2) == 4\n", "entry_point": "f"}
    assert humaneval(doc, ["    return x * 2"]) == {"pass@1": 1.0} and humaneval(doc, ["    return x"]) == {
        "pass@1": 0.0
    }
    doc = {"test_list": ["assert g(1) == 1", "assert g(2) == 4"], "test_setup_code": "import math"}
    assert mbpp(doc, ["def g(x): return x * x"]) == {"pass@1": 1.0}
    assert mbpp(doc, ["def g(x): return 1"]) == {"pass@1": 0.0}
