"""verify(): recompute evidence from its inputs, step by step; it returns what was checked or raises."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.detect import detect
from watermark.errors import KeyUnusable, MarkInvalid, ReportInvalid
from watermark.evidence import Evidence
from watermark.files import sha256_of
from watermark.inforce import InForce, check_published
from watermark.keyring import KeySet, read_commitments
from watermark.ledger import described, is_url, shown
from watermark.outputs import Outputs
from watermark.report.arithmetic import check_arithmetic
from watermark.report.cells import check_cells
from watermark.report.checks import Check, close
from watermark.scoring.evidence import ScoreEvidence

if TYPE_CHECKING:
    from watermark.attribute import Attribution
    from watermark.mark import Watermark
    from watermark.tokenizer import Tokenizer

_OVER_KEYS = ("log10_p", "verdict", "method", "notes", "detectable_rate")
_STATED_ELSEWHERE = ("created", "software", "shown", "inputs", "mark", "options", "plan", "dose")


def verify(
    evidence: Evidence | str | Path,
    *,
    outputs: str | Path | None = None,
    mark: Watermark | KeySet | None = None,
    cells: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    plan: str | Path | None = None,
    commitments: str | Path | None = None,
    page: str | Path | None = None,
) -> list[Check]:
    """Recomputes evidence; raises ReportInvalid naming the first thing that does not hold.

    evidence: or its file, whose digest is then checked. Without more, what follows from the evidence itself is
    recomputed. cells: the file that `detect` wrote; all decoys and every statistic's law are computed again, and
    with `mark` our own totals too. With `mark` and `outputs`, evidence from text is made anew; where a model was
    read, its readings cannot be made from outputs, and `cells` holds them. plan: the one the evidence names, by
    digest. commitments: what was published of the set of keys; none of them may have been left out. mark: or that set;
    where the evidence tested a set, one mark recomputes its own key's results.
    page: the HTML report must hold this evidence. `taken_as_stated` says what was not recomputed.
    """
    if isinstance(evidence, ScoreEvidence):
        raise ReportInvalid("this is evidence of scores", hint="verify_scores recomputes it")
    found = evidence if isinstance(evidence, Evidence) else Evidence.load(evidence)
    checks = [Check("digest", f"the evidence matches its digest {found.digest[:16]}…")]
    try:
        checks.append(check_arithmetic(found))
    except (ValueError, TypeError, ArithmeticError, MarkInvalid) as error:
        raise ReportInvalid(f"the evidence states what cannot be: {error}") from None
    for role, path in (("outputs", outputs), ("cells", cells)):
        if path is not None:
            checks.append(_same_file(found, role, Path(path)))
    if ledger is not None:
        checks.append(_same_ledger(found, ledger))
    keys = None
    if isinstance(mark, KeySet):
        mark, keys = _of_set(found, mark)
    if mark is not None:
        checks.append(_same_mark(found, mark))
    if keys is not None:
        checks.append(Check("keys", f"all {len(keys.marks)} keys open the commitments that are listed"))
    if commitments is not None:
        checks.append(Check("commitments", check_published(found, read_commitments(commitments))))
    if cells is not None:
        checks.append(check_cells(found, Path(cells), mark, keys))
    if mark is not None and outputs is not None and found.access == "text":
        checks.append(_recomputed(found, Path(outputs), keys or mark, tokenizer, ledger))
    if plan is not None:
        checks.append(_same_plan(found, Path(plan)))
    if page is not None:
        checks.append(same_page(found, Path(page)))
    return checks


def taken_as_stated(
    evidence: Evidence | str | Path,
    *,
    outputs: str | Path | None = None,
    mark: Watermark | KeySet | None = None,
    cells: str | Path | None = None,
) -> list[str]:
    """What `verify` with these arguments does not recompute, in sentences; empty if it leaves nothing."""
    found = evidence if isinstance(evidence, Evidence) else Evidence.load(evidence)
    left = []
    if found.keys is not None and mark is not None and not isinstance(mark, KeySet):
        left.append(
            f"the results of the other {found.keys['tested'] - 1} keys were taken as stated: they make the p-value no "
            f"smaller than this key's divided into {found.keys['tested']}; the key set recomputes them"
        )
    if found.access == "text" and outputs is not None and mark is not None:
        return left
    if found.access != "text" and outputs is not None and mark is not None and cells is None:
        left.append(
            f"read from {found.access}: the model's readings are needed to recompute it, --cells holds them; of the "
            "outputs only the file was checked"
        )
    if cells is None:
        left.append(
            "the counts themselves were taken as stated; "
            + ("--outputs and --mark recompute them" if found.access == "text" else "--cells and --mark recompute them")
        )
        return left
    if mark is None:
        left.append("the totals under our key were taken as stated; --mark recomputes them")
    left.append(
        "the curve, the single answers and the shown text were taken as stated: they describe, nothing rests on them"
    )
    if found.access != "text":
        left.append("that the suspect gives these cells was taken as stated; who has the model can run detect again")
    if found.anytime is not None:
        left.append("of the e-process only the form was checked: its stages are not in the cells")
    if found.controls:
        left.append("the controls were taken as stated: their cells are not kept; run detect again to recompute them")
    if found.dose is not None:
        left.append("the control students' effects, on which the dose rests, were taken as stated")
    return left


def _same_file(found: Evidence, role: str, path: Path) -> Check:
    stated = found.inputs.get(role)
    if stated is None:
        raise ReportInvalid(f"the evidence was made without {role}, but {path} was given")
    if not path.exists():
        raise ReportInvalid(f"no {role} at {path}")
    return _same_bytes(role, str(path), path.name, sha256_of(path), stated)


def _same_ledger(found: Evidence, ledger: str | Path) -> Check:
    """A ledger is the same whichever store it lies in: the JSON Lines that it is, or would be, are compared."""
    stated, name = found.inputs.get("ledger"), shown(ledger)
    if stated is None:
        raise ReportInvalid(f"the evidence was made without ledger, but {name} was given")
    if not is_url(ledger) and not Path(ledger).exists():
        raise ReportInvalid(f"no ledger at {ledger}")
    given = described(ledger)
    return _same_bytes("ledger", name, given["name"], given["sha256"], stated)


def _same_bytes(role: str, where: str, name: str, digest: str, stated: dict[str, Any]) -> Check:
    if digest != stated["sha256"]:
        raise ReportInvalid(
            f"{where} is not the {role} of this evidence: its SHA-256 is {digest[:16]}…, stated is "
            f"{stated['sha256'][:16]}…; a byte differs"
        )
    return Check(role, f"{name} has the stated SHA-256 {digest[:16]}…")


def _same_mark(found: Evidence, mark: Watermark) -> Check:
    if mark.profile() != found.mark:
        raise ReportInvalid(
            f"the watermark file (kid {mark.key.kid}) is not the one tested (kid {found.mark.get('kid')}, commitment "
            f"{str(found.mark.get('commitment'))[:16]}…)"
        )
    return Check("mark", f"the key opens the commitment {mark.key.commitment[:16]}…")


def _of_set(found: Evidence, keys: KeySet) -> tuple[Watermark, InForce | None]:
    """The mark that the evidence shows, and all keys as it lists them if it tested more than one."""
    try:
        mark = keys.watermark(keys.epoch(str(found.mark.get("kid"))))
    except KeyUnusable as error:
        raise ReportInvalid(f"the evidence is not of this set: {error}") from None
    return mark, None if found.keys is None else InForce.of(keys).restricted(found)


def _same_plan(found: Evidence, path: Path) -> Check:
    from watermark.plan import read_plan

    planned = read_plan(path)
    if found.plan is None:
        raise ReportInvalid(f"the evidence was made without a plan, but {path} was given")
    exploratory = found.plan.get("status") == "exploratory"
    expected = planned.stamp(list(found.plan["mismatches"]), exploratory=exploratory)
    if not close({name: found.plan.get(name) for name in expected}, expected):
        raise ReportInvalid(f"{path} is not the plan of this evidence: its digest is {planned.digest[:16]}…")
    return Check("plan", f"{path.name} is the plan with digest {planned.digest[:16]}…, made {planned.created}")


def _recomputed(
    found: Evidence, outputs: Path, mark: Watermark | InForce, tokenizer: Tokenizer | None, ledger: str | Path | None
) -> Check:
    options = found.options
    missing = [
        name for name in ("skip_bad", "fields", "ledger", "decoys", "alpha", "alternative") if name not in options
    ]
    if missing:
        raise ReportInvalid(f"the evidence does not say with which {', '.join(missing)} it was made")
    if options["ledger"] and ledger is None:
        raise ReportInvalid("the evidence was filtered by a ledger; give it too", hint="--ledger LEDGER")
    again = detect(
        Outputs(outputs, skip_bad=options["skip_bad"], fields=options["fields"]),
        mark,
        tokenizer=tokenizer,
        ledger=ledger if options["ledger"] else None,
        decoys=options["decoys"],
        alpha=options["alpha"],
        alternative=options["alternative"],
        stopped=options.get("stopped", False),
    )
    stated, computed = found.to_json(), again.to_json()
    alone = found.keys is not None and again.keys is None  # one key of those tested: what it shows, not what all do
    passed = (*_STATED_ELSEWHERE, "digest", *(_OVER_KEYS if alone else ()))
    for name, value in computed.items():
        if name not in passed and not close(stated[name], value):
            raise ReportInvalid(f"{name} does not recompute from the outputs and the key")
    total = f"{again.green} green" if again.levels is None else f"a total score of {again.green}"
    counted = f"{again.cells} cells, {total} and {options['decoys']} decoys"
    return Check("recomputed", f"{counted}, all as stated")


def same_page(found: Evidence | ScoreEvidence | Attribution, path: Path) -> Check:
    """The page at `path` is what this evidence renders to. Raises ReportInvalid, naming the first words that differ.

    All that the page says is made of the evidence again: also the weight and its words, the decoys that would have been
    called, what was checked of other explanations.
    """
    from watermark.report.page import page
    from watermark.report.shell import embedded, first_difference

    try:
        text = path.read_text("utf-8")
        held = embedded(text)
    except (OSError, ValueError) as error:
        raise ReportInvalid(f"{path} is not a report page: {error}") from None
    if held != found.to_json():
        raise ReportInvalid(f"{path} does not hold this evidence")
    again = page(found)
    if again == text:
        return Check("page", f"{path.name} is what this evidence renders to")
    differs = first_difference(text, again)
    if differs is None:
        raise ReportInvalid(
            f"{path} says what this evidence says, and its bytes are others: it was changed, or rendered by another "
            "version"
        )
    heading, said, says = (_short(words) for words in differs)
    raise ReportInvalid(
        f"{path} was changed after it was rendered, or rendered by another version: under {heading!r} it says "
        f"{said!r}, this evidence gives {says!r}"
    )


def _short(words: str) -> str:
    from watermark.report.shell import visible

    told = visible(words)
    return told if len(told) <= 80 else told[:79] + "…"
