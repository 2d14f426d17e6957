"""verify(): recompute evidence from its inputs, step by step; it returns what was checked or raises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from watermark.assess import directed_rank
from watermark.detect import NULL, POWER, detect, verdict_of
from watermark.errors import MarkInvalid, ReportInvalid
from watermark.evidence import Evidence
from watermark.files import sha256_of
from watermark.outputs import Outputs
from watermark.schemes import scheme_from_json
from watermark.stats.laws import (
    Bernoulli,
    binomial_interval,
    binomial_log10_chernoff,
    detectable_rate,
)

if TYPE_CHECKING:
    from watermark.mark import Watermark
    from watermark.tokenizer import Tokenizer

TOLERANCE = 1e-6
_STATED_ELSEWHERE = ("created", "software", "shown", "inputs", "mark", "options")


@dataclass(frozen=True)
class Check:
    """One thing that was recomputed and held."""

    name: str
    detail: str


def verify(
    evidence: Evidence | str | Path,
    *,
    outputs: str | Path | None = None,
    mark: Watermark | None = None,
    tokenizer: Tokenizer | None = None,
    ledger: str | Path | None = None,
    page: str | Path | None = None,
) -> list[Check]:
    """Recomputes evidence; raises ReportInvalid naming the first thing that does not hold.

    evidence: or its file, whose digest is then checked. Without `mark` only what is public is recomputed: the
    p-value, the interval, the power and the rank from the counts, and the files' hashes. With `mark` and
    `outputs` every count and every decoy is computed again. page: the HTML report must hold this evidence.
    """
    found = evidence if isinstance(evidence, Evidence) else Evidence.load(evidence)
    checks = [Check("digest", f"the evidence matches its digest {found.digest[:16]}…")]
    try:
        checks.append(_arithmetic(found))
    except (ValueError, TypeError, ArithmeticError, MarkInvalid) as error:
        raise ReportInvalid(f"the evidence states what cannot be: {error}") from None
    for role, path in (("outputs", outputs), ("ledger", ledger)):
        if path is not None:
            checks.append(_same_file(found, role, Path(path)))
    if mark is not None:
        checks.append(_same_mark(found, mark))
    if mark is not None and outputs is not None:
        checks.append(_recomputed(found, Path(outputs), mark, tokenizer, ledger))
    if page is not None:
        checks.append(_same_page(found, Path(page)))
    return checks


def _arithmetic(found: Evidence) -> Check:
    """Everything that follows from the counts alone."""
    law, n, green = Bernoulli(found.gamma), found.cells, found.green
    scheme = scheme_from_json(found.mark.get("scheme", {}))
    if found.gamma != scheme.null.mean or found.power != POWER:
        raise ReportInvalid("gamma and power are not those of the stated scheme and of this test")
    if found.alternative not in ("greater", "less", "two-sided"):
        raise ReportInvalid(f"the alternative {found.alternative!r} is none that is known")
    if not 0 <= green <= n:
        raise ReportInvalid(f"{green} green cells of {n} cannot be")
    rank = directed_rank(green, np.asarray(found.decoys.totals), n * law.mean, found.alternative)
    if not _close(found.decoys.rank_pvalue, rank):
        raise ReportInvalid(f"the decoy rank is stated as {found.decoys.rank_pvalue}, recomputed it is {rank}")
    expected: dict[str, Any] = {
        "null": NULL,
        "log10_p": law.log10_pvalue(green, n, alternative=found.alternative),  # type: ignore[arg-type]
        "green_rate": green / n,
        "green_rate_interval": binomial_interval(green, n),
        "z": (green - n * law.mean) / math.sqrt(n * law.variance),
        "log10_chernoff": binomial_log10_chernoff(green, n, law.mean),
        "detectable_rate": detectable_rate(n, law.mean, alpha=found.alpha, power=POWER),
    }
    for name, value in expected.items():
        if not _close(getattr(found, name), value):
            raise ReportInvalid(f"{name} is stated as {getattr(found, name)}, recomputed it is {value}")
    verdict = verdict_of(found.log10_p, found.alpha, found.detectable_rate, law.mean)
    if found.verdict != verdict:
        raise ReportInvalid(
            f"the verdict {found.verdict!r} does not follow; log10 p = {found.log10_p:.3f} gives {verdict!r}"
        )
    return Check("arithmetic", f"log10 p = {found.log10_p:.3f} follows from {green} green cells of {n}")


def _same_file(found: Evidence, role: str, path: Path) -> Check:
    stated = found.inputs.get(role)
    if stated is None:
        raise ReportInvalid(f"the evidence was made without {role}, but {path} was given")
    if not path.exists():
        raise ReportInvalid(f"no {role} at {path}")
    digest = sha256_of(path)
    if digest != stated["sha256"]:
        raise ReportInvalid(
            f"{path} is not the {role} of this evidence: its SHA-256 is {digest[:16]}…, stated is "
            f"{stated['sha256'][:16]}…; a byte differs"
        )
    return Check(role, f"{path.name} has the stated SHA-256 {digest[:16]}…")


def _same_mark(found: Evidence, mark: Watermark) -> Check:
    if mark.profile() != found.mark:
        raise ReportInvalid(
            f"the watermark file (kid {mark.key.kid}) is not the one tested (kid {found.mark.get('kid')}, "
            f"commitment {str(found.mark.get('commitment'))[:16]}…)"
        )
    return Check("mark", f"the key opens the commitment {mark.key.commitment[:16]}…")


def _recomputed(
    found: Evidence, outputs: Path, mark: Watermark, tokenizer: Tokenizer | None, ledger: str | Path | None
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
    )
    stated, computed = found.to_json(), again.to_json()
    for name, value in computed.items():
        if name not in (*_STATED_ELSEWHERE, "digest") and not _close(stated[name], value):
            raise ReportInvalid(f"{name} does not recompute from the outputs and the key")
    counted = f"{again.cells} cells, {again.green} green and {options['decoys']} decoys"
    return Check("recomputed", f"{counted}, all as stated")


def _same_page(found: Evidence, path: Path) -> Check:
    from watermark.report.page import embedded, page

    try:
        text = path.read_text("utf-8")
        held = embedded(text)
    except (OSError, ValueError) as error:
        raise ReportInvalid(f"{path} is not a report page: {error}") from None
    if held != found.to_json():
        raise ReportInvalid(f"{path} does not hold this evidence")
    if page(found) != text:
        raise ReportInvalid(f"{path} was changed after it was rendered, or rendered by another version")
    return Check("page", f"{path.name} is what this evidence renders to")


def _close(stated: Any, computed: Any) -> bool:
    """Equal, numbers to a relative 1e-6: other machines' libraries differ in the last digits."""
    if isinstance(computed, bool) or isinstance(stated, bool) or computed is None or stated is None:
        return stated is computed
    if isinstance(computed, (int, float)) and isinstance(stated, (int, float)):
        return math.isclose(stated, computed, rel_tol=TOLERANCE, abs_tol=1e-9)
    if isinstance(computed, (list, tuple)) and isinstance(stated, (list, tuple)):
        return len(stated) == len(computed) and all(map(_close, stated, computed))
    if isinstance(computed, dict) and isinstance(stated, dict):
        return stated.keys() == computed.keys() and all(_close(stated[k], computed[k]) for k in computed)
    return bool(stated == computed)
