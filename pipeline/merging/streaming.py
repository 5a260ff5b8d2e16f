"""Whole models through a merge: read ahead, computed on several threads, handed out in order."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.merging.blocks import CHUNK, Lazy, chunks, workers

AHEAD = 4  # chunks a thread, or as many entries in larger parts, that may wait to be taken: bounds the memory


def streamed(
    jobs: Iterable[tuple[Any, Lazy, Callable[[int, int], Any]]], threads: int, device: str = "cpu"
) -> Iterator[tuple[Any, list]]:
    """(what, [work(start, stop) of its next blocks]) of every job, in order.

    jobs  (what, the tensor whose blocks are worked through, work); the iterable runs in a thread of its own, a few
          chunks ahead, so that what a method must know of the next tensor is found while the last one is computed

    An exception of a job, of its work or of the one who takes the results ends everything.
    """
    waiting: queue.Queue = queue.Queue()
    room = threading.Condition()
    ahead, stopped = 0, False

    def enter(entries: int) -> None:
        nonlocal ahead
        with room:
            room.wait_for(lambda: stopped or ahead == 0 or ahead + entries <= AHEAD * CHUNK * max(1, threads))
            ahead += entries

    def leave(entries: int) -> None:
        nonlocal ahead
        with room:
            ahead -= entries
            room.notify()

    def coordinate() -> None:
        try:
            for what, tensor, work in jobs:
                task = chunks(tensor, work)
                for place in tensor.ranges(CHUNK) or [(0, 0)]:
                    enter(place[1] - place[0])
                    if stopped:
                        return
                    waiting.put((what, pool.submit(task, place), place[1] - place[0]))
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the one who takes the results
            waiting.put(error)

    with workers(threads, device) as pool:
        coordinator = threading.Thread(target=coordinate, name="merge-coordinator", daemon=True)
        coordinator.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                what, future, entries = item
                yield what, future.result()
                leave(entries)
        finally:
            with room:
                stopped = True
                room.notify()
            pool.shutdown(wait=False, cancel_futures=True)  # a survey that waits for its blocks ends too
            coordinator.join()
