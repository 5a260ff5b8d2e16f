"""Does a program that a model wrote pass its tests? It runs in a process of its own, with limits.

The limits keep a careless program from doing harm: seconds of CPU and wall time, memory, size of files, an empty folder,
an empty environment, no further processes (unless root runs it), and no network where the kernel lets a user say so.
They are no prison for a malicious one, whose children may outlive it: run such tasks where nothing is to be lost, in a
container or a virtual machine.
"""

import contextlib
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 10
MEMORY = 1 << 30
FILES = 1 << 20
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)


def passes(program: str, seconds: int = SECONDS) -> bool:
    """Whether a program comes to its last line, within the limits.

    An exit before it, whatever its code, is no pass: the last line writes a word that nobody could guess.
    """
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="pipeline-code-") as folder:
        file, proof = Path(folder) / "program.py", Path(folder) / "proof"
        end = f"\nwith open({str(proof)!r}, 'w') as _proof:\n    _proof.write({word!r})\n"
        file.write_text(program + end, encoding="utf-8", errors="replace")
        process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", str(file)],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _limit(seconds),
        )
        try:
            ended = process.wait(seconds + 1) == 0
            return ended and proof.is_file() and proof.read_text(errors="replace") == word
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too
            process.wait()


def humaneval(doc: dict, results: list[str]) -> dict[str, float]:
    """pass@1 of one completion: the prompt's function, completed, then its tests."""
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(passes(program))}


def mbpp(doc: dict, results: list[str]) -> dict[str, float]:
    """pass@1 of one completion: the program, then its three tests."""
    program = "\n".join([results[0], doc.get("test_setup_code") or "", *doc["test_list"]])
    return {"pass@1": float(passes(program))}


def _limit(seconds: int) -> None:
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK)
