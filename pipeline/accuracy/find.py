"""Where lm-eval's own definition of a task stands, by the task's name."""

import difflib
import functools
import importlib.util
import re
from pathlib import Path

from pipeline.errors import ConfigError

_TASK = re.compile(rb"^task:[ \t]*[\"']?([^\s\"'#\[]+)", re.MULTILINE)


def definition(task: str) -> str:
    """lm_eval:<below lm_eval/tasks>, as conf/accuracy writes it. Raises ConfigError for a name that no task has."""
    known = _definitions()
    if task not in known:
        near = ", ".join(difflib.get_close_matches(task, known, n=3)) or "none"
        raise ConfigError(
            f"{task} should be a single task of lm-eval, not a group or a tag, and none is called so (nearest: {near}); "
            "`lm_eval ls tasks` lists them"
        )
    return f"lm_eval:{known[task]}"


@functools.cache
def _definitions() -> dict[str, str]:
    """{task: path}. lm-eval's own index takes ten seconds to build, this one a half."""
    folder = Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        if match := _TASK.search(path.read_bytes()):
            found[match.group(1).decode()] = path.relative_to(folder).as_posix()
    return found
