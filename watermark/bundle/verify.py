"""verify_bundle(): everything that a bundle states, step by step; it returns what was checked, or raises.

Numbers are recomputed twice: by `standalone`, as a stranger does, and by the code that made them (`report.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark.bundle.layout import ENVELOPE, MOST_JSON, ORIGINAL, TOKEN, digest_of, opened, read_limited
from watermark.bundle.signers import by_those_named
from watermark.bundle.standalone import OTHER_FORM, UNREAD, Wrong, loads, steps
from watermark.bundle.statement import signed_by
from watermark.errors import BundleInvalid, KeyUnusable, ReportInvalid
from watermark.keyring.store import is_key_set
from watermark.report.checks import Check
from watermark.timestamps import read_stamp

if TYPE_CHECKING:
    from watermark.evidence import Evidence
    from watermark.mark import Watermark
    from watermark.tokenizer import Tokenizer

_OURS = ("page", "signatures", "time stamp")

_INDEX = {"case": str, "created": str, "files": dict, "controls": dict, "notes": list}


def verify_bundle(
    case: str | Path,
    *,
    mark: str | Path | None = None,
    tokenizer: str | Path | None = None,
    signers: Sequence[str | Path] = (),
    threshold: int = 1,
    authorities: Sequence[str | Path] = (),
) -> list[Check]:
    """Checks a bundle, a folder or its zip. Raises BundleInvalid or ReportInvalid with the first thing that is wrong.

    mark: the watermark file, where the key is opened: our counts are made again. tokenizer: the teacher's, by default
    where the mark was made; then text is read again from the start. signers: public keys (PEM, OpenSSH) or certificates
    of those who should have signed; at least `threshold` must have. authorities: certificates of time-stamp
    authorities that are trusted. What a step could not check stands in its sentence, after "NOT CHECKED".
    """
    if threshold < 1 or (threshold > 1 and threshold > len(signers)):
        raise BundleInvalid(
            f"{threshold} signatures of {len(signers)} named signers cannot be", hint="name more signers"
        )
    _one_key(mark)
    with opened(Path(case)) as folder:
        trusted = [Path(one) for one in authorities]
        checks = [Check(name, told) for name, told in _structure(folder, None if mark is None else Path(mark), trusted)]
        checks.append(Check("signatures", _signatures(folder, [Path(one) for one in signers], threshold)))
        checks.append(Check("time stamp", _stamp(folder, trusted)))
        try:
            checks += _recomputed(folder, mark, tokenizer)
        except OTHER_FORM as error:
            raise BundleInvalid(_another_form(error)) from None
    if mark is not None and all(check.name != "text" for check in checks):  # the tokenizer has read the text again
        return [Check(check.name, check.detail.replace(UNREAD, "")) for check in checks]
    return checks


def _one_key(mark: str | Path | None) -> None:
    """Raises KeyUnusable for a sealed set: verify.py, and an expert, are given the one key that the evidence shows."""
    if mark is not None and is_key_set(mark):
        raise KeyUnusable(
            f"{Path(mark).name} is a sealed key set; a bundle is verified with the key that it shows",
            hint="`wmark key mark SET ONE.wmark --epoch KID` writes it; `wmark evidence show CASE` names the kid",
        )


def is_bundle(path: str | Path) -> bool:
    """Whether this looks like a bundle: a bag's folder, or a zip."""
    path = Path(path)
    if path.is_dir():
        return (path / "bagit.txt").exists() or (path / "manifest-sha256.txt").exists()
    try:
        with path.open("rb") as stream:
            return stream.read(2) == b"PK" and path.suffix != ".npz"
    except OSError:
        return False


def contents(case: str | Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(index, evidence, whose good signatures it bears) of a bundle, for showing. Raises BundleInvalid."""
    with opened(Path(case)) as folder:
        index = _json(folder, "data/case.json")
        for name, kind in _INDEX.items():
            if not isinstance(index.get(name), kind):
                raise BundleInvalid(f"data/case.json is no index of a bundle: its {name!r} is missing or wrong")
        found = _json(folder, f"data/{index['files'].get('evidence')}")
        if not isinstance(found.get("mark"), dict):
            raise BundleInvalid("the evidence does not say which mark was tested")
        signed = [f"{who.keyid} ({who.name})" for who in signed_by(_sealed(folder))] if _signed(folder) else []
    return index, found, signed


def _structure(folder: Path, key: Path | None, authorities: list[Path]) -> Iterator[tuple[str, str]]:
    """The stranger's steps, without those of which the ones here know more."""
    try:
        yield from ((name, told) for name, told in steps(folder, key=key, authorities=authorities) if name not in _OURS)
    except Wrong as error:
        raise BundleInvalid(str(error), hint=_remedy(str(error))) from None
    except OTHER_FORM as error:
        raise BundleInvalid(_another_form(error)) from None


def _another_form(error: Exception) -> str:
    return f"a file of the bundle lacks something, or has it in another form ({type(error).__name__}: {error})"


def _remedy(told: str) -> str | None:
    """What to do about a bundle that is not whole."""
    if not told.endswith("is missing") and "dropped" not in told:
        return None
    return "ask for the bundle once more, as a zip; its owner makes it anew with `wmark evidence bundle`"


def _signatures(folder: Path, wanted: list[Path], threshold: int) -> str:
    if not _signed(folder):
        if wanted:
            raise BundleInvalid("the bundle is not signed, and signatures were asked for")
        return "NOT CHECKED: the bundle is not signed"
    good = signed_by(_sealed(folder))
    told = f"{len(good)} good signatures over the manifests and the evidence, by " + ", ".join(
        f"{who.keyid[:16]}… ({who.name})" for who in good
    )
    return f"{told}; {by_those_named(good, wanted, threshold)}"


def _stamp(folder: Path, authorities: list[Path]) -> str:
    place = folder if (folder / TOKEN).exists() else folder / ORIGINAL
    if not (place / TOKEN).exists():
        if authorities:
            raise BundleInvalid("the bundle bears no time stamp, and one was asked for")
        return "NOT CHECKED: the bundle bears no time stamp"
    answer = read_limited(place / TOKEN, TOKEN, most=1 << 20)
    found = read_stamp(answer, digest_of(place / ENVELOPE), authorities=authorities, name=TOKEN)
    if not found.checked:
        return f"the signed envelope existed at {found.time}; NOT CHECKED: whose word that is (--authority)"
    return f"the signed envelope existed at {found.time}, by the named authority ({found.authority})"


def _recomputed(folder: Path, mark: str | Path | None, tokenizer: str | Path | None) -> list[Check]:
    """The numbers by the code that made them."""
    from watermark.attribute import FORMAT as ATTRIBUTION
    from watermark.evidence import FORMAT as TEXT
    from watermark.scoring.evidence import SCORE_EVIDENCE

    if (folder / "data/redaction.json").exists():
        return [Check("recomputed", "NOT CHECKED: responses are left out, so that counts cannot be made again")]
    index = _json(folder, "data/case.json")
    files = {role: folder / "data" / name for role, name in index["files"].items()}
    kind = _json(folder, f"data/{index['files']['evidence']}")["format"]
    if kind == TEXT:
        return _of_text(files, mark, tokenizer)
    if kind == SCORE_EVIDENCE:
        return _of_scores(files, mark)
    if kind == ATTRIBUTION:
        from watermark.report.attributed import load_attribution, verify_attribution

        found = load_attribution(files["evidence"])
        checks = verify_attribution(found, outputs=files.get("answers"), mark=_mark(mark), tokenizer=tokenizer)
        return [*checks, _page(found, files)]
    return [Check("recomputed", f"NOT CHECKED: this version does not know evidence of the kind {kind!r}")]


def _of_text(files: dict[str, Path], mark: str | Path | None, tokenizer: str | Path | None) -> list[Check]:
    from watermark.evidence import Evidence
    from watermark.report.cells import check_cells
    from watermark.report.verify import verify

    found, used = Evidence.load(files["evidence"]), _mark(mark)
    text, why = _tokenizer(found, used, tokenizer)
    if found.keys is not None:
        why = "a set of keys was tested; `wmark verify` of the evidence with the whole set does so"
    again = used is not None and why is None and "ledger" not in found.inputs
    checks = verify(
        found,
        outputs=files.get("answers"),
        mark=used if again else None,
        tokenizer=text,
        plan=_named_plan(files, found),
    )
    if "cells" in files:
        checks.append(check_cells(found, files["cells"], used if found.keys is None else None))
    if used is not None and why is not None:
        checks.append(Check("text", f"NOT CHECKED: the responses were not read again: {why}"))
    return [*checks, _page(found, files)]


def _of_scores(files: dict[str, Path], mark: str | Path | None) -> list[Check]:
    from watermark.report.scores import verify_scores
    from watermark.scoring.evidence import ScoreEvidence
    from watermark.scoring.mark import ScoreWatermark

    used = None if mark is None else ScoreWatermark.load(mark)
    found = ScoreEvidence.load(files["evidence"])
    checks = verify_scores(found, case=files.get("cells"), mark=used, plan=files.get("plan"))
    return [*checks, _page(found, files)]


def _page(found: Any, files: dict[str, Path]) -> Check:
    """The page holds this evidence. Another version may render it otherwise, and the manifest binds it as it is."""
    from watermark.report.page import page
    from watermark.report.shell import embedded, first_difference, visible

    if "report" not in files:
        return Check("page", "NOT CHECKED: there is none")
    text = read_limited(files["report"], "data/report.html", most=MOST_JSON).decode("utf-8", "replace")
    try:
        held = embedded(text)
    except ValueError as error:
        raise ReportInvalid(f"data/report.html is no report page: {error}") from None
    if held != found.to_json():
        raise ReportInvalid("data/report.html does not hold this evidence")
    again, told = page(found), "data/report.html holds this evidence"
    if again == text:
        return Check("page", f"{told}, and is what this version renders")
    differs = first_difference(text, again)
    if differs is None:
        return Check("page", f"{told}; NOT CHECKED: its style and drawings, which are not those of this version")
    return Check(
        "page",
        f"{told}; NOT CHECKED: its words are not all those of this version, first under {visible(differs[0])[:80]!r}; "
        "render the evidence again with the version that the bundle names, and compare",
    )


def _tokenizer(
    found: Evidence, used: Watermark | None, source: str | Path | None
) -> tuple[Tokenizer | None, str | None]:
    """(tokenizer, None), or (None, why the responses cannot be read again)."""
    from watermark.errors import WatermarkError

    if used is None or found.access != "text":
        return None, None
    try:
        return used.tokenizer(source), None
    except WatermarkError as error:
        if source is not None:
            raise
        return None, f"{error} (--tokenizer)"


def _named_plan(files: dict[str, Path], found: Evidence) -> Path | None:
    return None if found.plan is None else files.get("plan")


def _mark(path: str | Path | None) -> Watermark | None:
    from watermark.mark import Watermark

    return None if path is None else Watermark.load(path)


def _signed(folder: Path) -> bool:
    return (_sealed(folder) / ENVELOPE).exists()


def _sealed(folder: Path) -> Path:
    """Where the envelope stands: of a redacted bundle, with the original's manifests unless it was signed again."""
    return folder if (folder / ENVELOPE).exists() else folder / ORIGINAL


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return loads(read_limited(folder / name, name, most=MOST_JSON), name)
    except Wrong as error:
        raise BundleInvalid(str(error)) from None
