"""A worker process: `python -m watermark.scale.worker` reads a job and then tasks from its standard input, one JSON
line each, and answers each with a line. It ends when its input does, so that none outlives the run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from watermark.scale.job import Bench, Job
from watermark.scale.tasks import done


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    job = sys.stdin.readline()
    if not job:
        return
    bench = Bench(Job.from_json(job))
    with contextlib.suppress(BrokenPipeError):  # nobody waits for the answer any more
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps(done(bench, request["task"], request["argument"])) + "\n")
            answers.flush()
        return
    os._exit(1)


if __name__ == "__main__":
    main()
