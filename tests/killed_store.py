"""Adds scenes to a store in processes of its own, killed at every step of the protocol, stopped, and run side by side.

    python killed_store.py MODEL SCENES FOLDER EVERY

EVERY: how many steps lie between two kills.
Prints a line a check that held; the exit code tells of one that did not. Processes are forked before anything has
opened a file or started a thread.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from store_files import all_rows

from sattxt import SatTxt
from sattxt.scenes import Store, ingest

torch.set_num_threads(1)
ingest.UNIT = 3  # so that a scene has several units
_WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.utime"}


def in_child(work: Callable[[], Any]) -> int:
    """The exit status of a process that does the work; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = int(work() or 0)
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_step(number: int, folder: Path, act: Callable[[], None]) -> None:
    """Do something at the ``number``-th time that this process touches a file of the folder, or flushes one."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED and str(arguments[0]).startswith(str(folder)):
            step()

    flush = os.fsync

    def flush_and_step(file: int) -> None:
        step()
        flush(file)

    os.fsync = flush_and_step
    sys.addaudithook(watch)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    model_dir, scenes, folder = (Path(argument) for argument in sys.argv[1:4])
    every = int(sys.argv[4])
    model = SatTxt.from_pretrained(model_dir, dtype="float32", text_cache=False)
    sources = sorted(map(str, scenes.glob("*.tif")))
    clean, damaged = folder / "clean", folder / "damaged"

    def add(path: Path) -> None:
        Store.create(path, model, chip=32).add(sources)

    def same(path: Path, whole: bool = True) -> int:
        """Whether the rows are those of the clean run: all of them, or those of the scenes that are there."""
        expected, found = all_rows(Store.open(clean)), all_rows(Store.open(path))
        items = {item.id for item in Store.open(path).items}
        wanted = {key: row for key, row in expected.items() if whole or key.split("#")[0] in items}
        return 0 if found == wanted else 1

    def go_on() -> int:
        if (damaged / "store.json").exists() and same(damaged, whole=False):
            raise AssertionError("other rows are seen")
        add(damaged)
        return same(damaged)

    assert in_child(lambda: add(clean)) == 0
    assert in_child(lambda: len(all_rows(Store.open(clean))) == 0) == 0
    number, killed = 1 - every, 0
    while True:
        number += every
        shutil.rmtree(damaged, ignore_errors=True)

        def add_and_die(number: int = number) -> None:
            at_step(number, damaged, kill)
            add(damaged)

        status = in_child(add_and_die)
        if status == 0:
            break
        assert status == -signal.SIGKILL, f"step {number}: {status}"
        killed += 1
        assert in_child(go_on) == 0, f"step {number}"
    print(f"killed at {killed} steps")

    shutil.rmtree(damaged)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                add(damaged)
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(70)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert in_child(lambda: same(damaged)) == 0
    print("two at once")

    def add_share(engine: str) -> None:
        Store.create(folder / "shards", model, chip=32).add(sources, engine=engine)

    for engine in ("task:1/3", "task:0/3", "task:2/3"):
        assert in_child(partial(add_share, engine)) == 0
    assert in_child(lambda: same(folder / "shards")) == 0
    print("three shards")

    shutil.rmtree(damaged)

    def add_until_stopped() -> None:
        Store.create(damaged, model, chip=32)
        at_step(12, damaged, lambda: os.kill(os.getpid(), signal.SIGINT))
        add(damaged)

    assert in_child(add_until_stopped) == 130
    assert not list(damaged.rglob("*.tmp"))
    assert in_child(go_on) == 0
    print("Ctrl-C")


if __name__ == "__main__":
    main()
