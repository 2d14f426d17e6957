"""Engines: where tasks are done. In this process, by worker processes, or on a Ray cluster; the tasks are the same."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from watermark import child
from watermark.errors import ExtraMissing, WorkInvalid
from watermark.scale.job import Bench, Job
from watermark.scale.tasks import done

if TYPE_CHECKING:
    from watermark.scale.tasks import Argument


class Engine(Protocol):
    def run(self, task: str, arguments: list[Argument]) -> Iterator[tuple[int, Argument]]:
        """(position, result) of each argument, in any order; after an error no later ones need be begun."""

    def close(self) -> None:
        """Ends what was started."""


@dataclass
class Here:
    """One task after the other, in this process."""

    bench: Bench

    def run(self, task: str, arguments: list[Argument]) -> Iterator[tuple[int, Argument]]:
        for position, argument in enumerate(arguments):
            result = done(self.bench, task, argument)
            yield position, result
            if "error" in result:
                return

    def close(self) -> None:
        pass


class Workers:
    """Processes of this machine. They get the job and the tasks as JSON through pipes, and end when theirs closes."""

    def __init__(self, job: Job, count: int) -> None:
        command = child.command("watermark.scale.worker")
        share = max(1, (os.cpu_count() or 1) // count)  # of the processors, for each
        alone = {"NUMBA_NUM_THREADS": str(share)} | child.environment() | {"TOKENIZERS_PARALLELISM": "false"}
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=alone)
            for _ in range(count)
        ]
        for process in self.processes:
            with contextlib.suppress(OSError):  # of one that is gone already its first task will tell
                _send(process, job.to_json())

    def run(self, task: str, arguments: list[Argument]) -> Iterator[tuple[int, Argument]]:
        waiting: queue.SimpleQueue[tuple[int, Argument] | None] = queue.SimpleQueue()
        found: queue.SimpleQueue[tuple[int, Argument]] = queue.SimpleQueue()
        stop = threading.Event()
        for pair in enumerate(arguments):
            waiting.put(pair)
        for _ in self.processes:
            waiting.put(None)

        def serve(process: subprocess.Popen[str]) -> None:
            while (pair := waiting.get()) is not None and not stop.is_set():
                result = _asked(process, {"task": task, "argument": pair[1]})
                if "error" in result:  # tasks are handed out in order, so all earlier ones are on their way
                    stop.set()
                found.put((pair[0], result))
            found.put((-1, {}))

        for process in self.processes:
            threading.Thread(target=serve, args=(process,), daemon=True).start()
        ended = 0
        while ended < len(self.processes):
            position, result = found.get()
            if position < 0:
                ended += 1
                continue
            yield position, result

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _asked(process: subprocess.Popen[str], request: dict[str, Any]) -> Argument:
    """A worker's answer; an error where it ended without one."""
    try:
        _send(process, json.dumps(request))
        assert process.stdout is not None
        line = process.stdout.readline()
    except (OSError, ValueError):
        line = ""
    if line:
        found: Argument = json.loads(line)
        return found
    message = f"a worker process ended (code {process.wait()}) before its task was done; what was finished is kept"
    return {"error": ["WorkInvalid", message, "is there memory enough? run the same command again, with fewer workers"]}


class Ray:
    """A Ray cluster, through Ray Data. Every node needs wmark and must see the work folder and the outputs.

    The key never leaves this machine: a mark with accounts, whose reading needs it, is refused.
    Raises ExtraMissing without ray, WorkInvalid where no cluster answers.
    """

    def __init__(self, job: Job, address: str | None) -> None:
        if job.secret:
            raise WorkInvalid(
                "the windows of a mark with accounts are shared out by a key, which is not sent to other machines",
                hint="read it with --workers, or with `wmark score` on a machine that holds the mark",
            )
        try:
            import ray
            import ray.data
        except ImportError:
            raise ExtraMissing("ray", "ray", "--engine ray") from None
        self.job = job
        if not ray.is_initialized():
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                raise WorkInvalid(
                    f"no Ray cluster at {address}: {error}",
                    hint="`ray start --head` begins one; one that asks for a token needs RAY_AUTH_MODE=token here",
                ) from None
            self.started = True
        else:
            self.started = False
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self.ray = ray

    def run(self, task: str, arguments: list[Argument]) -> Iterator[tuple[int, Argument]]:
        if not arguments:
            return
        rows = [{"position": n, "argument": json.dumps(argument)} for n, argument in enumerate(arguments)]
        data = self.ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in data.map(_Task(self.job.to_json(), task)).iter_rows():
            yield int(row["position"]), json.loads(row["result"])

    def close(self) -> None:
        if self.started:
            self.ray.shutdown()


def _reach(address: str | None) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray itself would try for minutes. Other forms are Ray's own."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass(frozen=True)
class _Task:
    """What Ray calls with a row. job: as JSON."""

    job: str
    task: str

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = done(_bench(self.job), self.task, json.loads(row["argument"]))
        return {"position": row["position"], "result": json.dumps(result)}


@lru_cache(maxsize=1)
def _bench(job: str) -> Bench:
    return Bench(Job.from_json(job))
