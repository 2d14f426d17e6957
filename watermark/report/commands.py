"""What to type to check the evidence: each command with the sentence that says what it needs and what it shows."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watermark.evidence import Evidence

_VERIFY = "wmark verify evidence.json"


def commands(evidence: Evidence) -> list[tuple[str, str]]:
    """(sentence, command), from what anyone can check to what needs the key and the suspect."""
    made = [
        (
            "Save the evidence below (it is in this page’s file, not on paper) as evidence.json. Its digest, and all "
            "that follows from the counts (p-value, interval, bound, power), need nothing else:",
            _VERIFY,
        )
    ]
    made += _with_cells(evidence) + _with_outputs(evidence)
    return made


def missing(evidence: Evidence) -> list[str]:
    """What cannot be recomputed by others, in sentences."""
    left = []
    if evidence.access != "text" and "cells" not in evidence.inputs:
        left.append(
            "What was read of the suspect was not kept. To let others recompute every statistic and every decoy, run "
            "the test again with --cells FILE, and give them that file."
        )
    if evidence.access == "text" and "outputs" not in evidence.inputs:
        left.append(
            "The outputs were handed over in memory. To let others recompute every count and every decoy, save them "
            "as a file and run the test on that."
        )
    if evidence.access != "text":
        left.append(
            "Without the suspect nobody can recompute that it gives these cells, the controls, or the stages of the "
            "e-process (its form is checked): whoever has the models repeats the test."
        )
    if evidence.dose is not None:
        left.append(
            "The dose rests on the control students’ effects, and the ambient dose on another "
            "model’s; both are taken as stated."
        )
    return left


def _with_cells(evidence: Evidence) -> list[tuple[str, str]]:
    if "cells" not in evidence.inputs:
        return []
    cells = f"{_VERIFY} --cells {_named(evidence, 'cells')}"
    return [
        (
            "With the cells that were read, and without any key: every statistic’s law, tail, bound and e-value, and "
            "all decoys:",
            cells,
        ),
        (
            "With the watermark file too, which holds the secret key, also the totals under our key:",
            f"{cells} --mark MARK.wmark",
        ),
    ]


def _with_outputs(evidence: Evidence) -> list[tuple[str, str]]:
    if "outputs" not in evidence.inputs:
        return []
    outputs, shared = _named(evidence, "outputs"), ["--mark MARK.wmark"]
    if "ledger" in evidence.inputs:
        shared.append(f"--ledger {_named(evidence, 'ledger')}")
    if evidence.mark.get("tokenizer"):
        shared.append("--tokenizer MODEL_FOLDER")
    files = " ".join(shared)
    made = []
    if evidence.access == "text":
        made.append(
            (
                "With the suspect’s outputs and the watermark file, which holds the secret key, every count and every "
                "decoy is computed again:",
                f"{_VERIFY} --outputs {outputs} {files}",
            )
        )
    words = [*_reading(evidence), _how(evidence)]
    return [*made, ("The same test, made anew:", f"wmark detect {outputs} {files} {' '.join(words)}")]


def _reading(evidence: Evidence) -> list[str]:
    """The options of `wmark detect` that say what is read of which models."""
    access, deep = evidence.access, evidence.weighted
    words = {"logits": ["--suspect SUSPECT"], "log-probabilities": ["--logprobs"], "samples": ["--samples"]}
    made = list(words.get(access, []))
    if deep is not None and deep.reference:
        made.append(f"--reference {shlex.quote(deep.reference)}")
    made += [f"--control {shlex.quote(f'{control.name}=CONTROL')}" for control in evidence.controls]
    return made


def _how(evidence: Evidence) -> str:
    """The options of `wmark detect` that this test was made with."""
    options = evidence.options
    parts = [f"--decoys {len(evidence.decoys.totals)}", f"--alpha {evidence.alpha:g}"]
    parts.append(f"--alternative {evidence.alternative}")
    parts += ["--stopped"] if options.get("stopped") else []
    parts += ["--skip-bad"] if options.get("skip_bad") else []
    parts += [f"--field {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in options.get("fields", {}).items()]
    return " ".join(parts)


def _named(evidence: Evidence, role: str) -> str:
    return shlex.quote(evidence.inputs[role]["name"])
