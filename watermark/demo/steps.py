"""The demo's steps, each a process of its own with one thread, so that two run side by side on two cores.

`python -m watermark.demo.steps STEP FOLDER` runs one; settings come from the folder's settings.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watermark.files import write_whole

HERE = Path(__file__).parent
SUSPECTS = ("thief", "honest", "untrained")


def serve(folder: Path, settings: dict[str, Any], *, marked: bool) -> None:
    """The teacher answers the teaching prompts; marked answers go into the ledger."""
    from watermark.embed.answers import Model, Sampling, write_answers
    from watermark.ledger import Ledger
    from watermark.mark import Watermark
    from watermark.prompts import read_prompts

    teacher = Model.load(settings["model"])
    prompts = read_prompts(HERE / "prompts" / "teach.jsonl")[: settings["teach"]]
    sampling = Sampling(
        settings["tokens"], temperature=settings["temperature"], batch=settings["batch"], seed=settings["seed"]
    )
    if not marked:
        write_answers(teacher, prompts, folder / "unmarked.jsonl", mark=None, sampling=sampling)
        return
    mark = Watermark.load(folder / "ours.wmark")
    with Ledger(folder / "ledger.jsonl") as ledger:
        write_answers(teacher, prompts, folder / "marked.jsonl", mark=mark, ledger=ledger, sampling=sampling)


def learn(folder: Path, settings: dict[str, Any], *, name: str) -> None:
    """One student is trained from a fresh initialisation: the thief on a mix, the honest one on unmarked answers."""
    from watermark.demo.student import Training, train

    marked, unmarked = ((folder / f"{kind}.jsonl").read_bytes().splitlines() for kind in ("marked", "unmarked"))
    share = settings["share"] if name == "thief" else 0
    answers = [m if index * 37 % 100 < share else u for index, (m, u) in enumerate(zip(marked, unmarked, strict=True))]
    data, draft = folder / f"{name}.train.jsonl", folder / f"{name}.part"
    write_whole(data, b"\n".join(answers) + b"\n")
    train(folder / "untrained", data, draft, Training(epochs=settings["epochs"], seed=settings["seed"]))
    draft.rename(folder / name)


def ask(folder: Path, settings: dict[str, Any], *, name: str) -> None:
    """One suspect answers unmarked prompts that no student was trained on."""
    from watermark.embed.answers import Model, Sampling, write_answers
    from watermark.prompts import read_prompts

    prompts = read_prompts(HERE / "prompts" / "probe.jsonl")[: settings["probe"]]
    sampling = Sampling(
        settings["probe_tokens"],
        temperature=settings["probe_temperature"],
        batch=settings["batch"],
        seed=settings["seed"] + 1,
    )
    write_answers(Model.load(folder / name), prompts, folder / f"{name}.jsonl", mark=None, sampling=sampling)


STEPS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "serve-marked": lambda folder, settings: serve(folder, settings, marked=True),
    "serve-unmarked": lambda folder, settings: serve(folder, settings, marked=False),
    "learn-thief": lambda folder, settings: learn(folder, settings, name="thief"),
    "learn-honest": lambda folder, settings: learn(folder, settings, name="honest"),
    "ask-thief": lambda folder, settings: ask(folder, settings, name="thief"),
    "ask-honest": lambda folder, settings: ask(folder, settings, name="honest"),
    "ask-untrained": lambda folder, settings: ask(folder, settings, name="untrained"),
}


def main() -> None:
    step, folder = sys.argv[1], Path(sys.argv[2])
    import torch

    torch.set_num_threads(1)
    STEPS[step](folder, json.loads((folder / "settings.json").read_text("utf-8")))


if __name__ == "__main__":
    main()
