"""How a loop is compiled."""

import functools

import numba


def loop(function):
    """Compile a function at its first call, and keep the result where there is a place for it."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # neither the package nor the user has a folder to write into
        return compiled()(function)
