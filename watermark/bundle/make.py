"""bundle(): a case in one folder or zip, sealed; and what is done with it after: sign(), timestamp(), redact().

The same inputs give the same bytes: nothing in a sealed bundle is of the clock or of this machine. Before anything is
written in its place, the whole bundle is checked as a stranger would check it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watermark import chain
from watermark.bundle import custody
from watermark.bundle.archive import write_archive
from watermark.bundle.custody import canonical
from watermark.bundle.layout import (
    BAGIT,
    BEFORE,
    CUSTODY,
    DECLARATION,
    ENVELOPE,
    INFO,
    MANIFEST,
    MOST_JSON,
    ORIGINAL,
    SIGNERS,
    TAGS,
    TOKEN,
    digest_of,
    files_of,
    manifest,
    opened,
    read_limited,
)
from watermark.bundle.plans import signature_beside
from watermark.bundle.readme import readme
from watermark.bundle.signers import identity_of, load_signer, signed
from watermark.bundle.standalone import Wrong, known, lines_of, read_cells, scorable, steps
from watermark.bundle.statement import before_signing, encoded, envelope, read_envelope, statement
from watermark.errors import BundleInvalid, LedgerInvalid, WatermarkError
from watermark.files import canonical_json, readable_json
from watermark.keyring.commitments import read_commitments
from watermark.probe.log import log_path
from watermark.timestamps import Stamp, moment, stamp, stamp_beside

if TYPE_CHECKING:
    from watermark.tokenizer import Tokenizer

FORMAT, HASHES, REDACTION, DETECTIONS = (
    "wmark-bundle/1",
    "wmark-hashes/1",
    "wmark-redaction/1",
    "wmark-detections/1",
)
_SECRETS = (b"wmark-watermark/", b"wmark-score-watermark/", b'"salt"', b'"k":', b"age-encryption.org", b"PRIVATE KEY")
_TESTS = chain.Kind(DETECTIONS, "record of tests", "test", "test in a record")


def bundle(
    evidence: str | Path,
    output: str | Path,
    *,
    answers: str | Path | None = None,
    log: str | Path | None = None,
    plan: str | Path | None = None,
    profile: str | Path | None = None,
    cells: str | Path | None = None,
    controls: Sequence[str | Path] = (),
    tokenizer: Tokenizer | None = None,
    commitments: str | Path | None = None,
    commitments_token: str | Path | None = None,
    commitment_token: str | Path | None = None,
    plan_token: str | Path | None = None,
    plan_signature: str | Path | None = None,
    hash_only: bool = False,
) -> Path:
    """Seals a case into `output`: a folder, or a zip if its name ends in .zip. Returns it.

    evidence: the file that `detect` wrote (of text or of scores), or `attribute`. answers: the suspect's responses as
    they were tested. log: their query log; by default the one beside them, and so the record of tests. plan: that which
    the evidence names. profile: public, by default what the evidence says of the mark. cells: what was read
    (`detect --cells`; of scores `--case`). tokenizer: the teacher's, so that a stranger can take text apart without it.
    commitments: what was published of the key set before (`wmark key commit`); its time stamp by default beside it.
    commitment_token, plan_token, plan_signature: a time stamp over one commitment; the plan's stamp and its signatures,
    by default those beside it. hash_only: hashes in place of all text.
    Raises BundleInvalid naming what does not fit, WatermarkError if `output` is there.
    """
    target = Path(output)
    if target.exists():
        raise WatermarkError(f"{target} is there already; a bundle is not written over", hint="choose another --output")
    found = _read_evidence(Path(evidence))
    given = _Given(
        found,
        Path(evidence),
        answers=_path(answers),
        log=_path(log) or _beside(answers, log_path),
        plan=_path(plan),
        profile=_path(profile),
        cells=_path(cells),
        controls=[Path(one) for one in controls],
        detections=_beside(answers, record_path),
        commitments=_path(commitments),
        commitments_token=_path(commitments_token) or _beside(commitments, stamp_beside),
        commitment_token=_path(commitment_token),
        plan_token=_path(plan_token) or _beside(plan, stamp_beside),
        plan_signature=_path(plan_signature) or _beside(plan, signature_beside),
    )
    with tempfile.TemporaryDirectory(prefix=".wmark-", dir=_parent(target)) as place:
        folder = Path(place) / "case"
        _fill(folder, given, tokenizer)
        _seal(folder, given.found, given.index, _events(given))
        check(folder)
        if hash_only:
            _redact(folder, Path(place) / "hashes", None)
            folder = Path(place) / "hashes"
            check(folder)
        _settle(folder, target)
    return target


def check(folder: Path) -> list[tuple[str, str]]:
    """The stranger's steps over a bundle that is a folder. Raises BundleInvalid with the first wrong one's sentence."""
    try:
        return list(steps(folder))
    except Wrong as error:
        raise BundleInvalid(str(error)) from None
    except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError, RecursionError) as error:
        raise BundleInvalid(
            f"a file of the bundle lacks something, or has it in another form ({type(error).__name__}: {error})"
        ) from None


def sign(case: str | Path, key: str | Path, *, certificate: str | Path | None = None) -> str:
    """Adds a signature to a bundle and returns its key's id. key: Ed25519 or ECDSA on P-256, in PEM or OpenSSH's form.

    Raises KeyUnusable for another key, BundleInvalid if the bundle does not hold, was signed by this key, or bears a
    time stamp already (which is over the signatures that it has).
    """
    private = load_signer(Path(key))
    who = identity_of(private, _path(certificate))
    with _changed(Path(case)) as folder:
        if (folder / TOKEN).exists():
            raise BundleInvalid(
                "the bundle bears a time stamp, which is over the signatures it has",
                hint="let all sign first, then have it stamped",
            )
        payload, signatures = read_envelope(folder) if (folder / ENVELOPE).exists() else (_payload(folder), [])
        if who.keyid in {one["keyid"] for one in signatures}:
            raise BundleInvalid(f"the key {who.keyid[:16]}… has signed this bundle already")
        signatures.append({"keyid": who.keyid, "sig": _base64(signed(private, before_signing(payload)))})
        (folder / SIGNERS).mkdir(exist_ok=True)
        (folder / f"{SIGNERS}{who.keyid}.pem").write_bytes(who.pem)
        (folder / ENVELOPE).write_bytes(envelope(payload, signatures))
        _happened(folder, "sign", keyid=who.keyid, signer=_sha256(who.pem), sha256=digest_of(folder / ENVELOPE))
    return who.keyid


def timestamp(case: str | Path, authority: str | Path) -> Stamp:
    """Has an authority stamp a bundle's signed envelope. Raises BundleInvalid if it is not signed, or has a stamp."""
    with _changed(Path(case)) as folder:
        if not (folder / ENVELOPE).exists():
            raise BundleInvalid("the bundle is not signed; a time stamp is over its signatures", hint="sign it first")
        _, found = stamp(folder / ENVELOPE, authority=authority, output=folder / TOKEN)
        _happened(folder, "timestamp", sha256=digest_of(folder / TOKEN), says=found.time)
    return found


def redact(case: str | Path, output: str | Path, responses: Sequence[int]) -> Path:
    """A copy of a bundle without the text of some responses (numbers from 1); their hashes stand, and signatures hold.

    Raises BundleInvalid if the bundle does not hold or was redacted before, WatermarkError for other numbers.
    """
    target = Path(output)
    if target.exists():
        raise WatermarkError(f"{target} is there already; a bundle is not written over", hint="choose another --output")
    with opened(Path(case)) as folder, tempfile.TemporaryDirectory(prefix=".wmark-", dir=_parent(target)) as place:
        check(folder)
        _redact(folder, Path(place) / "case", sorted(set(responses)))
        check(Path(place) / "case")
        _settle(Path(place) / "case", target)
    return target


def record_path(answers: Path) -> Path:
    """Where the record of tests of an answers file stands: beside it, `.tests.jsonl` added to its name."""
    return answers.with_name(answers.name + ".tests.jsonl")


def note_test(answers: Path, evidence: Any) -> None:
    """Adds a test to the record beside the answers, so that every key that was tried on them is told."""
    path = record_path(answers)
    before = list(chain.read_chain(path, _TESTS)) if path.exists() else []
    with contextlib.closing(chain.open_locked(path)) as stream:
        stream.seek(0, os.SEEK_END)
        if not before:
            before = [chain.append(stream, {"format": DETECTIONS})]
        over = getattr(evidence, "keys", None)
        for key in [evidence.mark] if over is None else over["each"]:
            body = {
                "time": evidence.created,
                "kid": key["kid"],
                "commitment": key["commitment"],
                "evidence": evidence.digest,
                "access": evidence.access,
            }
            before.append(chain.append(stream, body | {"seq": len(before) - 1, "prev": before[-1]["hash"]}))


class _Given:
    """All that goes into a bundle, by role; index: what data/case.json says."""

    def __init__(self, found: dict[str, Any], evidence: Path, *, controls: list[Path], **files: Path | None) -> None:
        self.found, self.evidence, self.controls = found, evidence, controls
        self.files = {name: path for name, path in files.items() if path is not None}
        for path in [*self.files.values(), *controls]:
            if not path.is_file() or path.is_symlink():
                raise BundleInvalid(f"{path} is no file that could go into a bundle")
            _refuse_secret(path)
        for path in self.files.values():
            if path.name.endswith(".jsonl"):
                for _ in _lines(path.parent, path.name):  # line by line, before anything is read whole or copied
                    pass
        self.index: dict[str, Any] = {
            "format": FORMAT,
            "case": found["digest"],
            "created": custody.sealing_time(found["created"]),
            "files": {},
            "controls": {},
            "notes": [],
        }

    def put(self, folder: Path, role: str, name: str, content: bytes | Path) -> None:
        """A file of the payload."""
        self.index["files"][role] = name
        _put(folder / "data" / name, content)


def _fill(folder: Path, given: _Given, tokenizer: Tokenizer | None) -> None:
    """Writes the payload."""
    found, files = given.found, given.files
    (folder / "data").mkdir(parents=True)
    given.put(folder, "evidence", "evidence.json", given.evidence)
    names = {
        "answers": "answers" + _suffix(files.get("answers")),
        "log": "answers.log.jsonl",
        "detections": "answers.tests.jsonl",
        "plan": "plan.json",
        "plan_token": "plan.json.tsr",
        "plan_signature": "plan.json.sig.json",
        "commitments": "commitments.json",
        "commitments_token": "commitments.json.tsr",
        "commitment_token": "commitment.tsr",
        "cells": "cells.npz",
    }
    for role, name in names.items():
        if role in files:
            given.put(folder, role, name, files[role])
    published = files.get("profile")
    if published is not None:
        _same_profile(published, found)
    given.put(folder, "profile", "profile.json", readable_json(found["mark"]) + b"\n")
    for number, path in enumerate(given.controls, 1):
        name = f"controls/{number}-{_plain(path.name)}"
        given.index["controls"][name] = digest_of(path)
        _put(folder / "data" / name, path)
    _add_rows(folder, given, tokenizer)
    given.put(folder, "hashes", "hashes.json", canonical(_hashes(folder, given.index, found)))
    given.put(folder, "decoys", "decoys.csv", _decoys(found))
    page = _page(given.evidence, found)
    if page is not None:
        given.put(folder, "report", "report.html", page)
    verifier = Path(__file__).with_name("standalone.py").read_bytes()
    given.put(folder, "verifier", "verify.py", verifier)
    given.put(folder, "software", "software.json", canonical(_software(found, verifier)))
    given.put(folder, "readme", "README.txt", readme(found, given.index).encode())
    _put(folder / "data" / "case.json", readable_json(given.index) + b"\n")


def _add_rows(folder: Path, given: _Given, tokenizer: Tokenizer | None) -> None:
    """Cells, and the responses in tokens, where a stranger can find the ones in the others; else a note why not."""
    found = given.found
    if found["format"] != "wmark-evidence/2" or found["access"] != "text" or "answers" not in given.files:
        return
    reason = _no_rows(given)
    if reason is None:
        try:
            reason = _read_again(folder, given, tokenizer)
        except WatermarkError as error:
            reason = str(error)
    if reason is not None:
        for role in ("rows", "vocabulary"):
            name = given.index["files"].pop(role, None)
            if name is not None:
                (folder / "data" / name).unlink()
        given.index["notes"].append(f"verify.py cannot find the cells in the responses: {reason}")


def _no_rows(given: _Given) -> str | None:
    """Why the cells are not to be found in the responses by windows alone; None if they are."""
    options, mark = given.found["options"], given.found["mark"]
    if options["ledger"] or "accounts" in mark:
        return "a ledger or account keys chose among the windows"
    if options["skip_bad"] or options["fields"] or _suffix(given.files["answers"]) != ".jsonl":
        return "the responses are not plain JSON Lines, each a record under our names"
    if not known(mark):
        return f"the scheme {mark['scheme']['name']!r} has cells of its own kind"
    return None


def _read_again(folder: Path, given: _Given, tokenizer: Tokenizer | None) -> str | None:
    """Reads the responses once more, without a key, and writes what a stranger needs; returns why he would fail."""
    from watermark.bundle.rows import rows, spelling
    from watermark.observe import observe, save_cells
    from watermark.outputs import Outputs

    answers, mark = given.files["answers"], _keyless(given.found["mark"])
    if "cells" not in given.files:
        seen = observe(Outputs(answers), mark, tokenizer=tokenizer)
        if seen.digest != given.found["observations"]:
            return "read again, the responses give other cells than were tested (another tokenizer, or another version)"
        given.put(folder, "cells", "cells.npz", b"")
        save_cells(seen, folder / "data/cells.npz")
    read = rows(answers, mark, tokenizer)
    spelled = spelling(read, tokenizer)
    there = _cells_in(folder)
    special = set(mark.special_ids)
    for row in read:
        row["as_it_came"] = set(_allowed(row, mark.scheme.window, special, spelled)) <= there
    given.put(folder, "rows", "rows.jsonl", b"".join(canonical(row) for row in read))
    given.put(folder, "vocabulary", "vocabulary.json", canonical(spelled))
    return None


def _cells_in(folder: Path) -> set[tuple[int, ...]]:
    import numpy as np

    windows, choices, _ = read_cells(folder, "data/cells.npz")
    return set(map(tuple, np.column_stack([windows, choices]).tolist()))


def _allowed(row: dict[str, Any], width: int, special: set[int], spelled: dict[str, str]) -> list[tuple[int, ...]]:
    return list(scorable(row, width, special, {int(i): bytes.fromhex(h) for i, h in spelled.items()}))


def _keyless(profile: dict[str, Any]) -> Any:
    """A mark with the profile's scheme and vocabulary, under a key of no meaning."""
    from watermark.keys import decoy_keys
    from watermark.mark import Binding, Watermark
    from watermark.schemes import scheme_from_json

    bound = profile["tokenizer"]
    binding = bound and Binding(bound["digest"], bound["logits_width"], tuple(bound["special_ids"]))
    return Watermark(scheme_from_json(profile["scheme"]), next(iter(decoy_keys(b"any key will do", 1))), binding)


def _seal(folder: Path, found: dict[str, Any], index: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Manifests, and the record of custody up to the sealing."""
    _write_manifests(folder, found, index["created"])
    sealed = {
        "event": "bundle",
        "time": index["created"],
        "manifest": digest_of(folder / MANIFEST),
        "tagmanifest": digest_of(folder / TAGS),
    }
    custody.begin(folder / CUSTODY, index["case"], [*events, sealed])


def _write_manifests(folder: Path, found: dict[str, Any], when: str) -> None:
    payload = {path: size for path, size in files_of(folder).items() if path.startswith("data/")}
    info = (
        f"Bag-Software-Agent: wmark {_version('wmark')}\n"
        f"Bagging-Date: {when[:10]}\n"
        f"External-Identifier: {found['digest']}\n"
        f"Payload-Oxum: {sum(payload.values())}.{len(payload)}\n"
    )
    (folder / BAGIT).write_bytes(DECLARATION)
    (folder / INFO).write_text(info, "utf-8")
    (folder / MANIFEST).write_bytes(manifest(folder, list(payload)))
    (folder / TAGS).write_bytes(manifest(folder, list(BEFORE)))


def _events(given: _Given) -> list[dict[str, Any]]:
    """What happened before the sealing, each with the time that its own file gives."""
    events: list[dict[str, Any]] = []
    if "plan" in given.files:
        told = _json(given.files["plan"], "the plan")
        events.append({"event": "plan", "time": told.get("created"), "digest": told.get("digest")})
    if "log" in given.files:
        from watermark.probe.log import read_log

        try:
            header, requests = read_log(given.files["log"])
        except LedgerInvalid as error:
            raise BundleInvalid(str(error)) from None
        first = min(requests, key=lambda line: moment(str(line["time_sent"]))) if requests else header
        last = requests[-1] if requests else header
        events.append(
            {
                "event": "probe",
                "time": first.get("time_sent", header["created"]),
                "until": last.get("time_received", header["created"]),
                "run": header["run"],
                "requests": len(requests),
                "head": last["hash"],
            }
        )
    if "commitments" in given.files:
        published = read_commitments(given.files["commitments"])
        made = max((key.created for key in published.keys), key=moment)
        events.insert(0, {"event": "commitments", "time": made, "head": published.head, "keys": len(published.keys)})
    found = given.found
    events.append({"event": "detect", "time": found["created"], "evidence": found["digest"]})
    return events


def _payload(folder: Path) -> bytes:
    """The bytes to be signed: of the statement about this bundle."""
    index = _json(folder / "data/case.json", "data/case.json")
    found = _json(folder / "data" / index["files"]["evidence"], "the evidence")
    sealed = [line for line in custody.read(folder / CUSTODY) if line.get("event") in ("bundle", "redact")]
    return encoded(statement(folder, index, found, custody=str(sealed[-1]["hash"])))


@contextlib.contextmanager
def _changed(case: Path) -> Iterator[Path]:
    """A bundle as a folder, checked before; what was done to it is checked, and then put in its place."""
    with opened(case) as folder, tempfile.TemporaryDirectory(prefix=".wmark-", dir=_parent(case)) as place:
        check(folder)
        draft = Path(place) / "case"
        if case.is_dir():
            draft.mkdir()
            for name in (ENVELOPE, TOKEN, CUSTODY, TAGS, *BEFORE):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, draft / name)
            for name in ("data", SIGNERS, ORIGINAL):
                if (folder / name).is_dir():
                    shutil.copytree(folder / name, draft / name, copy_function=_linked)
        else:
            shutil.copytree(folder, draft)
        yield draft
        check(draft)
        if case.is_dir():
            _put_back(draft, case)
        else:
            write_archive(case, draft, list(files_of(draft)))


def _put_back(draft: Path, case: Path) -> None:
    """The files that signing and stamping write, the record of custody last."""
    (case / SIGNERS).mkdir(exist_ok=True)
    for path in sorted((draft / SIGNERS).iterdir()) if (draft / SIGNERS).is_dir() else []:
        if not (case / SIGNERS / path.name).exists():
            shutil.copyfile(path, case / SIGNERS / path.name)
    for name in (ENVELOPE, TOKEN, CUSTODY):
        if (draft / name).exists():
            os.replace(draft / name, case / name)


def _linked(source: str, target: str) -> None:
    """A hard link where the disk has them: payloads may be large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _happened(folder: Path, event: str, **told: Any) -> None:
    custody.add(folder / CUSTODY, {"event": event, "time": custody.now()} | told)


def _redact(folder: Path, target: Path, numbers: list[int] | None) -> None:
    """Writes a copy of the bundle in `folder` without the text of these responses; None: of all, and of all else."""
    index = _json(folder / "data/case.json", "data/case.json")
    if (folder / "data/redaction.json").exists():
        raise BundleInvalid("the bundle was redacted before; redact the original")
    files = index["files"]
    hashes = _json(folder / "data" / files["hashes"], "the hashes")
    listed = hashes["answers"] and hashes["answers"]["lines"]
    if not listed:
        raise BundleInvalid("the bundle holds no responses line by line, which could be left out one by one")
    numbers = list(range(1, len(listed) + 1)) if numbers is None else numbers
    if not numbers or numbers[0] < 1 or numbers[-1] > len(listed):
        raise WatermarkError(f"responses are numbered from 1 to {len(listed):,}; those named are not among them")
    everything = len(numbers) == len(listed)
    dropped = [role for role in ("report", "cells", "vocabulary", "rows") if role in files]
    removed = [f"data/{files[role]}" for role in dropped]
    removed += [f"data/{name}" for name in index["controls"]] if everything else []
    changed = [f"data/{files['answers']}", f"data/{files['evidence']}"]
    for path in files_of(folder):
        if path.startswith("data/") and path not in removed and path not in changed:
            _put(target / path, folder / path)
    ids = _redacted_answers(folder, target, f"data/{files['answers']}", set(numbers), listed)
    _redacted_evidence(folder, target, f"data/{files['evidence']}", ids)
    for path in [*BEFORE, TAGS, ENVELOPE, TOKEN]:
        if (folder / path).exists():
            _put(target / ORIGINAL / path, folder / path)
    for pem in sorted((folder / SIGNERS).iterdir()) if (folder / SIGNERS).is_dir() else []:
        _put(target / ORIGINAL / SIGNERS / pem.name, pem)
    told = {"format": REDACTION, "responses": numbers, "changed": sorted(changed), "removed": sorted(removed)}
    _put(target / "data/redaction.json", readable_json(told) + b"\n")
    found = _json(folder / "data" / files["evidence"], "the evidence")
    _write_manifests(target, found, index["created"])
    _put(target / CUSTODY, folder / CUSTODY)
    when = index["created"] if everything and not (folder / ENVELOPE).exists() else custody.now()
    custody.add(
        target / CUSTODY,
        {"event": "redact", "time": when, "responses": len(numbers), "tagmanifest": digest_of(target / TAGS)},
    )


def _redacted_answers(folder: Path, target: Path, path: str, numbers: set[int], listed: list[str]) -> set[str]:
    """Writes the responses with hashes for those named; returns the ids that these have."""
    ids: set[str] = set()
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    with (target / path).open("wb") as sink:
        for number, line in enumerate(lines_of(folder, path), 1):
            if number in numbers:
                id = str(json.loads(line).get("id", number - 1))
                ids.add(id)
                line = canonical({"id": id, "redacted": listed[number - 1]})
            sink.write(line)
    return ids


def _redacted_evidence(folder: Path, target: Path, path: str, ids: set[str]) -> None:
    """Writes the evidence without the text of these answers on display."""
    found = _json(folder / path, "the evidence")
    shown = [
        {"id": one["id"], "redacted": _sha256(canonical_json(one))} if one["id"] in ids else one
        for one in found.get("shown", [])
    ]
    _put(target / path, readable_json(found | ({"shown": shown} if shown else {})) + b"\n")


def _hashes(folder: Path, index: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Hashes of parts: of each response's line, and of the evidence without what it shows and of each answer shown."""
    name = index["files"].get("answers")
    answers = None
    if name is not None:
        plain = name.endswith(".jsonl")
        lines = [_sha256(line) for line in _lines(folder, f"data/{name}")] if plain else None
        answers = {"sha256": digest_of(folder / "data" / name), "lines": lines}
    rest = {field: value for field, value in found.items() if field not in ("digest", "shown")}
    parts = [_sha256(canonical_json(one)) for one in found.get("shown", [])]
    return {
        "format": HASHES,
        "answers": answers,
        "evidence": {"without_shown": _sha256(canonical_json(rest)), "shown": parts},
    }


def _lines(folder: Path, path: str) -> Iterator[bytes]:
    try:
        yield from lines_of(folder, path)
    except Wrong as error:
        raise BundleInvalid(str(error)) from None


def _decoys(found: dict[str, Any]) -> bytes:
    """The totals under every decoy key as a table."""
    drawn = found.get("decoys") or {}
    columns: dict[str, list[Any]] = {}
    if isinstance(drawn, dict):
        columns = {name: values for name, values in drawn.items() if isinstance(values, list)}
    columns |= (found.get("weighted") or {}).get("decoy_totals", {})
    sheet = io.StringIO()
    table = csv.writer(sheet, lineterminator="\n")
    table.writerow(["decoy key", *columns])
    for number, row in enumerate(zip(*columns.values(), strict=False)):
        table.writerow([number, *row])
    return sheet.getvalue().encode()


def _page(path: Path, found: dict[str, Any]) -> bytes | None:
    """The report page, where evidence of its kind has one."""
    from watermark.attribute import Attribution
    from watermark.evidence import Evidence
    from watermark.report.page import page
    from watermark.scoring.evidence import ScoreEvidence

    makers: dict[str, Callable[[Path], Any]] = {
        kind.format: kind.load for kind in (Evidence, ScoreEvidence, Attribution)
    }
    made = makers.get(found["format"])
    return None if made is None else page(made(path)).encode()


def _software(found: dict[str, Any], verifier: bytes) -> dict[str, Any]:
    names = ("wmark", "numpy", "scipy", "tokenizers", "jinja2", "matplotlib", "cryptography", "rfc8785")
    return {
        "detection": found.get("software"),
        "bundle": {"python": platform.python_version()} | {name: _version(name) for name in names},
        "verify.py": _sha256(verifier),
    }


def _read_evidence(path: Path) -> dict[str, Any]:
    found = _json(path, "the evidence")
    if not {"format", "digest", "created", "mark"} <= set(found) or not str(found["format"]).startswith("wmark-"):
        raise BundleInvalid(f"{path} is no evidence", hint="pass what `wmark detect --output` wrote")
    return found


def _refuse_secret(path: Path) -> None:
    """Raises BundleInvalid for a file that holds a key, before anything is copied."""
    with path.open("rb") as stream:
        start = stream.read(1 << 16)
    if any(sign in start for sign in _SECRETS):
        raise BundleInvalid(f"{path} holds a secret key; no secret ever goes into a bundle")


def _same_profile(path: Path, found: dict[str, Any]) -> None:
    told = _json(path, "the profile")
    if told != found["mark"]:
        raise BundleInvalid(
            f"{path} is the profile of kid {told.get('kid')}, the evidence is about kid {found['mark'].get('kid')}: "
            "another key was published than tested, or it was changed"
        )


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        found = json.loads(read_limited(path, str(path), most=MOST_JSON))
    except (ValueError, RecursionError):
        raise BundleInvalid(f"{path} cannot be read as {what}: it is not JSON") from None
    if not isinstance(found, dict):
        raise BundleInvalid(f"{path} cannot be read as {what}: it is no JSON object")
    return found


def _put(target: Path, content: bytes | Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, target)
    else:
        target.write_bytes(content)


def _settle(folder: Path, target: Path) -> None:
    """Puts the finished bundle in its place."""
    for path in files_of(folder):
        (folder / path).chmod(0o644)
    if target.suffix == ".zip":
        write_archive(target, folder, list(files_of(folder)))
        return
    os.rename(folder, target)


def _parent(target: Path) -> Path:
    parent = target.absolute().parent
    if not parent.is_dir():
        raise WatermarkError(f"no folder {parent}", hint="make it first")
    return parent


def _beside(path: str | Path | None, where: Callable[[Path], Path]) -> Path | None:
    """A file beside another, if it is there."""
    if path is None or not Path(path).is_file():
        return None
    found = where(Path(path))
    return found if found.exists() else None


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _suffix(path: Path | None) -> str:
    """ ".jsonl" and its kin; a file of another name is kept as bytes."""
    name = "" if path is None else path.name
    return next(
        (ending for ending in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet") if name.endswith(ending)), ".bin"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-80:]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _base64(content: bytes) -> str:
    import base64

    return base64.b64encode(content).decode()
