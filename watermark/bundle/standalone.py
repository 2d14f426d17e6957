#!/usr/bin/env python3
"""verify.py: checks a bundle of evidence with Python 3.11, numpy and (for signatures and time stamps) openssl alone.

    python3 verify.py [CASE] [--key ours.wmark] [--signer WHO.pem ...] [--threshold N] [--authority TSA.pem ...]

CASE is the bundle, a folder or its zip; by default the one in which this file lies. Without more it checks that
nothing was changed, and that every number follows from the counts. With the watermark file, which holds the secret key
and which a neutral expert is given, it opens the key's commitment and counts again under that key. Signatures are shown
with the keys that made them; whose keys they are, you say: --signer. Exit code: 0 all that was checked holds, 3
something does not (the last line says what), 2 misuse.

This file shares no code with the program that made the bundle. It may have been changed along with the bundle: take it
from a source of your own, or read it; it is meant to be read from top to bottom:

     1. The steps                      what is checked, in the order in which it is printed
     2. Files                          every byte of the bundle is bound by a hash
     3. The evidence by itself         its digest, its page, and what follows from its numbers as stated
     4. Before and while it was asked  the responses, the log of the questions, the plan, dates, published keys
     5. Afterwards                     custody, signatures, time stamps
     6. The numbers once more          cells from the responses, laws from the cells, totals from the keys
     7. The keyed function             `arx32-v1`: windows by rounds of Chaskey, tokens by a short mix, all modulo 2^32
     8. Laws                           of a cell's score, of counts, of weighted sums, of a cosine; ranks and e-values
     9. Small things                   reading, JSON, base64, times, hashes
    10. The command line               a zip is unpacked, every step is printed
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import hmac
import html
import io
import itertools
import json
import math
import os
import re
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

MOST_JSON, MOST_LINE, MOST_ARRAYS = 256 << 20, 64 << 20, 4 << 30
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,3}")
HEX = re.compile(r"[0-9a-f]{64}")
TAGGED = ["bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
LATER = ["attestation.dsse.json", "attestation.tsr", "custody.jsonl", "tagmanifest-sha256.txt"]
KEPT = [*TAGGED, *(name for name in LATER if name != "custody.jsonl")]  # of a bundle before its redaction
REMOVED = ["cells", "report", "rows", "vocabulary"]  # what a redaction takes out whole, beside controls
# SubjectPublicKeyInfo (RFC 5280) of an Ed25519 key and of one on P-256, without their 32 and 65 bytes
ED25519 = bytes.fromhex("302a300506032b6570032100")
P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
# What a file that is not in its form makes this one raise, one that needs more memory than there is among them
OTHER_FORM = (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError, RecursionError, MemoryError)
UNREAD = "; NOT CHECKED: that the tokenizer spells and parts text so, data/vocabulary.json is as stated"


class Wrong(Exception):
    """Something does not hold; the message says what."""


# ----------------------------------------------------------------------------------------------------------------------
# 1. The steps: what is checked, in the order in which it is printed. Each returns what it checked, or raises Wrong.


def steps(
    case: Path,
    *,
    key: Path | None = None,
    signers: list[Path] | None = None,
    threshold: int = 1,
    authorities: Sequence[Path] = (),
) -> Iterator[tuple[str, str]]:
    """(name, what was checked) of every step. case: the bundle as a folder."""
    yield "files", check_manifests(case)
    index = read_json(case, "data/case.json")
    removed = index_of_removed(case)
    yield "contents", check_contents(case, index, removed)
    evidence = read_json(case, role(index, "evidence"))
    yield "evidence", check_evidence_digest(case, index, evidence)
    yield "arithmetic", check_arithmetic(evidence)
    if has(case, index, "report"):
        yield "page", check_page(case, index, evidence)
    if has(case, index, "answers"):
        yield "responses", check_answers(case, index, evidence)
    if has(case, index, "log"):
        yield "query log", check_log(case, index)
    if has(case, index, "plan"):
        yield "plan", check_plan(case, index, evidence)
    yield "dates", check_dates(case, index, evidence, authorities)
    if has(case, index, "commitments"):
        yield "commitments", check_commitments(case, index, evidence, authorities)
    if has(case, index, "detections"):
        yield "keys tried", check_detections(case, index, evidence)
    elif has(case, index, "log"):
        yield "keys tried", "NOT CHECKED: no record of tests is in the bundle; other keys may have been tried"
    yield "custody", check_custody(case, index)
    yield "signatures", check_signatures(case, index, evidence, signers or [], threshold)
    yield "time stamp", check_stamp(case, authorities)
    yield from check_numbers(case, index, evidence, key)


# ----------------------------------------------------------------------------------------------------------------------
# 2. Files: every byte of the bundle is bound by a hash.


def check_manifests(case: Path) -> str:
    """Manifests are the ones that the files give, to the byte; no file stands outside of them."""
    files = files_of(case)
    for needed in [*TAGGED, "tagmanifest-sha256.txt", "custody.jsonl", "data/case.json"]:
        if needed not in files:
            raise Wrong(f"{needed} is missing")
    payload = [name for name in files if name.startswith("data/")]
    listed = listed_in(case, "manifest-sha256.txt")
    for name in payload:
        if name not in listed:
            raise Wrong(f"{name} stands in the bundle, but not in its manifest")
    for name in listed:
        if name not in files:
            raise Wrong(f"{name} stands in the manifest, but not in the bundle; it was dropped")
    told = f"Payload-Oxum: {sum(files[n] for n in payload)}.{len(payload)}\n".encode()
    if told not in read(case, "bag-info.txt", 1 << 20):
        raise Wrong("bag-info.txt states another number of files or bytes than there are")
    for name in payload:
        check_file(case, name, listed[name])
    tags = listed_in(case, "tagmanifest-sha256.txt")
    if sorted(tags) != TAGGED:
        raise Wrong("tagmanifest-sha256.txt does not list what it should: " + ", ".join(TAGGED))
    for name in TAGGED:
        if sha256_of(case / name) != tags[name]:
            raise Wrong(f"{name} is not the file in tagmanifest-sha256.txt; it was changed")
    known = {*TAGGED, *LATER, *payload, *(f"original/{name}" for name in KEPT)}
    for name in files:
        if name not in known and not re.fullmatch(r"(original/)?signers/[0-9a-f]{64}\.pem", name):
            raise Wrong(f"{name} belongs to no part of a bundle")
    if read(case, "bagit.txt", 1000) != b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n":
        raise Wrong("bagit.txt is not the declaration of a BagIt 1.0 bag in UTF-8")
    return f"{len(payload)} files match manifest-sha256.txt and stand in it, {len(TAGGED)} match tagmanifest-sha256.txt"


def check_file(case: Path, name: str, digest: str) -> None:
    """A file is the one in the manifest."""
    if sha256_of(case / name) != digest:
        raise Wrong(f"{name} is not the file in the manifest: its SHA-256 differs; it was changed or swapped")


def files_of(case: Path) -> dict[str, int]:
    """Plain files alone, and their sizes; links and strange names are refused."""
    found: dict[str, int] = {}
    for folder, folders, names in os.walk(case, followlinks=False):
        for name in [*folders, *names]:
            path = Path(folder) / name
            told, inside = path.lstat(), path.relative_to(case).as_posix()
            if stat.S_ISLNK(told.st_mode):
                raise Wrong(f"{inside} is a symbolic link; a bundle holds plain files alone")
            if not NAME.fullmatch(inside):
                raise Wrong(f"{inside!r} is no name of a file in a bundle")
            if stat.S_ISREG(told.st_mode):
                found[inside] = told.st_size
            elif not stat.S_ISDIR(told.st_mode):
                raise Wrong(f"{inside} is no plain file")
        if len(found) > 2000:
            raise Wrong("the bundle holds more than 2,000 files")
    return dict(sorted(found.items()))


def listed_in(case: Path, manifest: str) -> dict[str, str]:
    """{path: digest} of a manifest in its one form: sorted lines of digest, two blanks and path."""
    lines = read(case, manifest, 8 << 20).split(b"\n")
    found: dict[str, str] = {}
    if lines.pop():
        raise Wrong(f"{manifest} ends within a line")
    for number, line in enumerate(lines, 1):
        digest, blank, path = line[:64], line[64:66], line[66:]
        if not HEX.fullmatch(digest.decode("latin-1")) or blank != b"  " or not NAME.fullmatch(path.decode("latin-1")):
            raise Wrong(f"{manifest}, line {number} is not a digest, two blanks and a path")
        if found and path.decode() <= next(reversed(found)):
            raise Wrong(f"{manifest}, line {number} is out of order")
        found[path.decode()] = digest.decode()
    return found


def index_of_removed(case: Path) -> dict[str, Any]:
    """What was redacted: {} where nothing was."""
    if not (case / "data/redaction.json").exists():
        return {}
    return read_json(case, "data/redaction.json")


def check_contents(case: Path, index: dict[str, Any], redaction: dict[str, Any]) -> str:
    """The index names the files that are there; of a redacted bundle, all that was not redacted is the original's."""
    if index.get("format") != "wmark-bundle/1":
        raise Wrong(f"data/case.json is no index of a bundle that is known here: {index.get('format')!r}")
    removed, changed = redaction.get("removed", []), redaction.get("changed", [])
    named = {f"data/{name}" for name in index["files"].values()} | {f"data/{name}" for name in index["controls"]}
    there = {name for name in files_of(case) if name.startswith("data/")}
    for name in sorted(named - there - set(removed)):
        raise Wrong(f"{name} stands in data/case.json, but not in the bundle; it was dropped")
    for name in sorted(there - named - {"data/case.json", "data/redaction.json"}):
        raise Wrong(f"{name} is not in data/case.json; it was slipped in")
    if not redaction:
        return f"the bundle of case {index['case'][:16]}…, {len(named)} files, nothing redacted"
    removable = {f"data/{index['files'][part]}" for part in REMOVED if part in index["files"]}
    removable |= {f"data/{name}" for name in index["controls"]}
    for name in removed:
        if name in there or name not in removable:
            raise Wrong(
                f"data/redaction.json says that {name} was removed, "
                + ("and it stands in the bundle" if name in there else "which no redaction takes out")
            )
    for name, digest in listed_in(case / "original", "tagmanifest-sha256.txt").items():
        if name not in TAGGED or sha256_of(case / "original" / name) != digest:
            raise Wrong(f"original/{name} is not the file in original/tagmanifest-sha256.txt; it was changed")
    for name, digest in listed_in(case / "original", "manifest-sha256.txt").items():
        if name in removed:
            continue
        if name not in there:
            raise Wrong(f"{name} is gone from the redacted bundle, and data/redaction.json does not say so")
        if name not in changed and sha256_of(case / name) != digest:
            raise Wrong(f"{name} is not the original's, and data/redaction.json does not say so")
    allowed = {f"data/{index['files'][part]}" for part in ("answers", "rows", "evidence") if part in index["files"]}
    if not set(changed) <= allowed:
        raise Wrong("data/redaction.json says that files were changed in which nothing can be redacted")
    return (
        f"a redacted copy of case {index['case'][:16]}…: {len(redaction['responses'])} responses are left out, "
        f"{len(removed)} files with them, and all else is the original's"
    )


def role(index: dict[str, Any], name: str) -> str:
    """Where a file of this role lies."""
    found = index["files"].get(name)
    if not isinstance(found, str):
        raise Wrong(f"data/case.json names no {name}")
    return f"data/{found}"


def has(case: Path, index: dict[str, Any], name: str) -> bool:
    return name in index["files"] and (case / role(index, name)).is_file()


# ----------------------------------------------------------------------------------------------------------------------
# 3. The evidence by itself: its digest, its page, and what follows from its numbers as stated.


def check_evidence_digest(case: Path, index: dict[str, Any], evidence: dict[str, Any]) -> str:
    """The digest that the evidence states over all its other fields; with redacted text, over its parts."""
    if evidence.get("digest") != index["case"]:
        raise Wrong("data/case.json is about other evidence: the digests differ")
    shown = evidence.get("shown") or []
    hidden = [part for part in shown if "redacted" in part]
    if not hidden:
        if digest_of(evidence) != evidence["digest"]:
            raise Wrong("the evidence does not match its digest; it was changed after it was written")
        if has(case, index, "hashes"):
            check_parts(case, index, evidence, [sha256(canonical(part)) for part in shown])
        return f"the evidence ({evidence['format']}) matches its digest {evidence['digest'][:16]}…"
    check_parts(
        case, index, evidence, [part["redacted"] if "redacted" in part else sha256(canonical(part)) for part in shown]
    )
    return f"the evidence matches the hashes of its parts; {len(hidden)} answers on display are redacted"


def check_parts(case: Path, index: dict[str, Any], evidence: dict[str, Any], shown: list[str]) -> None:
    """The evidence has the hashes that a redacted copy of it would be held to. shown: of the answers on display."""
    parts = read_json(case, role(index, "hashes"))["evidence"]
    rest = {name: value for name, value in evidence.items() if name not in ("digest", "shown")}
    if sha256(canonical(rest)) != parts["without_shown"] or shown != parts["shown"]:
        raise Wrong("the evidence does not match the hashes of its parts; it was changed after it was written")


def check_page(case: Path, index: dict[str, Any], evidence: dict[str, Any]) -> str:
    """The page holds this evidence; what it says of it in words is not made again here."""
    path = role(index, "report")
    text = read(case, path, MOST_JSON).decode("utf-8", "replace")
    held = re.findall(r'<pre id="evidence-json"[^>]*>(.*?)</pre>', text, re.DOTALL)
    if len(held) != 1 or text.count('"evidence-json"') != 1 or loads(html.unescape(held[0]).encode(), path) != evidence:
        raise Wrong(f"{path} does not hold this evidence")
    return f"{path} holds this evidence; NOT CHECKED: its words, which `wmark report` makes of the evidence again"


def check_arithmetic(evidence: dict[str, Any]) -> str:
    """What follows from the numbers as stated, by the kind of evidence."""
    kinds = {
        "wmark-evidence/2": check_text,
        "wmark-score-evidence/1": check_scores,
        "wmark-attribution/1": check_attribution,
    }
    if not str(evidence["format"]).startswith("wmark-"):
        raise Wrong(f"{evidence['format']!r} is no kind of evidence")
    if evidence["format"] not in kinds:
        return f"NOT CHECKED: this file does not know {evidence['format']}; it checks all but the numbers"
    return kinds[evidence["format"]](evidence)


def check_text(evidence: dict[str, Any]) -> str:
    """p-value, ranks, mean e-value and verdict from counts and totals as stated."""
    alternative, n, green = evidence["alternative"], evidence["cells"], evidence["green"]
    totals, deep, law = np.array(evidence["decoys"]["totals"]), evidence["weighted"], law_of(evidence)
    most = len(law) - 1
    mean = n * evidence["gamma"] * most
    near("the decoy rank", evidence["decoys"]["rank_pvalue"], rank(green, totals, mean, alternative))
    said = []
    near("the rate of green cells", evidence["green_rate"], green / (n * most))
    spread = math.fsum((level - mean / n) ** 2 * chance for level, chance in enumerate(law))
    near("z", evidence["z"], (green - mean) / math.sqrt(n * spread))
    decided = counted(evidence, green)
    if decided is None:
        decided = evidence["log10_p"] if deep is None and not evidence.get("keys") else None
        said.append("NOT CHECKED: the lattice of the total score is too large for this file, its p-value is as stated")
    elif most == 1:
        said.append(f"{green} of {n} cells are green: log10 p = {decided:.4f}")
    else:
        said.append(f"a total score of {green} in {n} cells of 0 to {most} each: log10 p = {decided:.4f}")
    if deep is not None:
        names = [one["name"] for one in deep["statistics"]]
        if sorted(names) != sorted(deep["decoy_totals"]):
            raise Wrong("the statistics and the decoys' totals do not bear the same names")
        for one in deep["statistics"]:
            z = (one["total"] - one["mean"]) / one["sd"] if one["sd"] else 0.0
            near(f"z of {one['name']}", one["z"], z)
            drawn = np.array(deep["decoy_totals"][one["name"]])
            near(f"the rank of {one['name']}", one["rank_pvalue"], rank(one["total"], drawn, one["mean"], alternative))
        together = mean_of_evalues([one["log10_e"] for one in deep["statistics"]])
        near("the mean e-value (log10)", deep["log10_e"], together)
        near("p = 1/E (log10)", deep["log10_p"], min(0.0, -together))
        decided = deep["log10_p"]
        said.append(f"the mean of {len(names)} e-values is 10^{together:.4f}")
    if evidence["options"].get("stopped"):
        if evidence["anytime"] is None:
            raise Wrong("the e-process is said to decide, but the evidence holds none")
        decided = min(0.0, -evidence["anytime"]["log10_e"])
        said.append("NOT CHECKED: the e-process that decides is as stated, its stages are not in the bundle")
    if evidence.get("keys"):
        decided, told = over_keys(evidence)
        said.append(told)
    if decided is not None:
        near("log10 p", evidence["log10_p"], decided)
    check_verdict(evidence)
    return "; ".join(said) + f"; the verdict “{evidence['verdict']}” follows"


def check_scores(evidence: dict[str, Any]) -> str:
    """Of scores: p-values, e-values and ranks from cosines and dimensions, the correction over tests, the verdict."""
    way, tests = evidence["alternative"], evidence["tests"]
    for test in tests:
        name, c, size = test["part"], test["cosine"], test["dimensions"]
        near(f"log10 p of the {name} test", test["log10_p"], cosine_tail(c, size, way))
        near(f"log10 E of the {name} test", test["log10_e"], cosine_evalue(c, size, way))
        near(f"the rank of the {name} test", test["rank_pvalue"], rank(c, np.array(test["decoys"]), 0.0, way))
    for control in evidence["controls"]:
        tail = cosine_tail(control["cosine"], tests[0]["dimensions"], way)
        near(f"log10 p of control {control['name']}", control["log10_p"], tail)
    decided = min(0.0, min(test["log10_p"] for test in tests) + math.log10(len(tests)))
    said = [f"{test['part']}: a cosine of {test['cosine']:.4f} in {test['dimensions']:,} dimensions" for test in tests]
    if evidence["stopped"]:
        decided = min(0.0, -evidence["looks"][-1]["log10_e"]) if evidence["looks"] else 0.0
        said.append("NOT CHECKED: the e-process that decides is as stated")
    near("log10 p", evidence["log10_p"], decided)
    check_verdict(evidence)
    return (
        "; ".join(said) + f"; the verdict “{evidence['verdict']}” follows; NOT CHECKED: cosines are as stated, "
        "`wmark evidence verify CASE --mark` makes them again from answers, basis and key"
    )


def check_attribution(evidence: dict[str, Any]) -> str:
    """Whose answers: each account's p-value from its total, Holm's correction over all of them, and who is named."""
    each, alpha = evidence["exposures"], evidence["alpha"]
    if len(each) != evidence["hypotheses"] or len({(one["account"], one["epoch"]) for one in each}) != len(each):
        raise Wrong(
            f"{evidence['hypotheses']} accounts are said to be tested, {len(each)} are listed, each once or not"
        )
    said = "NOT CHECKED: p-values of single accounts are as stated, their weights are not in the bundle"
    law, n = law_of_scheme(evidence["mark"]), evidence["cells"]
    if law is not None and evidence["statistic"] == "votes":
        votes = Sum(np.ones(1, np.int64), np.array([n]), law)
        for one in each:
            total, who = one["totals"]["votes"], one["account"]
            near(f"the score of {who}", one["score"], (total - votes.mean) / votes.sd)
            tail = binomial(total, n, law[1], "greater") if len(law) == 2 else votes.both(total, "greater", exact=True)
            near(f"log10 p of {who}", one["log10_p"], one["log10_p"] if tail is None else tail)
        said = f"p-values of {len(each)} accounts follow from their totals in {n:,} cells"
    tried = sorted(each, key=lambda one: float(one["log10_p"]))
    reached = -math.inf
    for place, one in enumerate(tried):
        reached = max(reached, one["log10_p"] + math.log10(len(each) - place))
        near(f"the corrected p-value of {one['account']} (log10)", one["log10_p_holm"], min(0.0, reached))
        if (one["log10_p_holm"] <= math.log10(alpha)) != (one["verdict"] == "exposure found"):
            raise Wrong(f"the verdict on {one['account']} is {one['verdict']!r}, which does not follow")
    if sum(one["verdict"] == "exposure found" for one in each) != len(evidence["found"]):
        raise Wrong("those who are named as found are not those whose verdict says so")
    return (
        f"{said}; {len(evidence['found'])} are found by Holm's correction; NOT CHECKED: totals and panels of decoy "
        "keys are as stated, `wmark evidence verify CASE --mark` makes them again from the responses"
    )


def check_verdict(evidence: dict[str, Any]) -> None:
    """Evidence is found where the p-value is not above the level."""
    if (evidence["log10_p"] <= math.log10(evidence["alpha"])) != (evidence["verdict"] == "evidence found"):
        raise Wrong(f"the verdict {evidence['verdict']!r} does not follow from log10 p = {evidence['log10_p']}")


def over_keys(evidence: dict[str, Any]) -> tuple[float, str]:
    """Where every key of a set was tested: the list leads to the head of the set, and its results to log10 p."""
    keys, stopped = evidence["keys"], bool(evidence["options"].get("stopped"))
    each = keys["each"]
    mark = {name: evidence["mark"][name] for name in ("prf", "scheme", "tokenizer")}
    whole = len({key["kid"] for key in each}) == len(each) == keys["tested"]
    if head_of(keys["set"], mark, each) != keys["head"] or not whole:
        raise Wrong("the tested keys do not lead to the head of their set: one was left out, added or changed")
    held = evidence["mark"]
    mine = next((key for key in each if key["kid"] == held["kid"] == keys["foremost"]), None)
    if mine is None or (mine["totals"]["votes"], mine["commitment"]) != (evidence["green"], held["commitment"]):
        raise Wrong("the key that the evidence shows is not the foremost of those that were tested")
    exact = evidence["weighted"] is None and not stopped
    if exact:
        for key in each:
            own = counted(evidence, key["totals"]["votes"])
            near(f"log10 p of key {key['kid']}", key["log10_p"], key["log10_p"] if own is None else own)
        best = min(0.0 if key["revoked"] else key["log10_p"] for key in each)
        decided, how = min(0.0, best + math.log10(len(each))), "Bonferroni over exact tails"
    else:
        shown = evidence["anytime"] if stopped else evidence["weighted"]
        near(f"log10 E of key {mine['kid']}", mine["log10_e"], shown["log10_e"])
        live = [key["log10_e"] for key in each if not key["revoked"]]
        joint = mean_of_evalues(live) + math.log10(len(live) / len(each)) if live else -math.inf
        decided, how = min(0.0, -joint), "mean of e-values"
    if keys["correction"] != how:
        raise Wrong(f"over the keys the correction is stated as {keys['correction']!r}, this test's is {how!r}")
    near("log10 p over all keys", keys["log10_p"], decided)
    return decided, f"all {len(each)} keys of set {keys['set']} were tested, {how}: log10 p = {decided:.4f}"


def head_of(name: str, mark: dict[str, Any], keys: list[dict[str, Any]]) -> str:
    """The head of a set of keys: a chain of hashes over the set's name and mark, then over each key in its order."""
    link = sha256(b"wmark-keys-v1" + canonical([name, mark]))
    for key in keys:
        link = sha256(canonical([link, key["epoch"], key["kid"], key["commitment"], key["created"], key["nbf"]]))
    return link


# ----------------------------------------------------------------------------------------------------------------------
# 4. Before and while it was asked: the responses, the log of the questions, the plan, dates, published keys.


def check_answers(case: Path, index: dict[str, Any], evidence: dict[str, Any]) -> str:
    """The file of responses is the one that was tested; line by line where some are redacted."""
    stated = (evidence.get("inputs") or {}).get("outputs")
    path, hashes = role(index, "answers"), read_json(case, role(index, "hashes"))["answers"]
    found = sha256_of(case / path)
    if stated is None:
        return f"NOT CHECKED: the evidence names no file of responses; {path} has SHA-256 {found[:16]}…"
    if hashes["sha256"] != stated["sha256"]:
        raise Wrong(f"{path} is not the file that was tested: the evidence names SHA-256 {stated['sha256'][:16]}…")
    if hashes["lines"] is None:
        if found != stated["sha256"]:
            raise Wrong(f"{path} is not the file that was tested; it was changed or swapped")
        return f"{path} is the file that was tested ({found[:16]}…)"
    hidden = number = 0
    listed = iter(hashes["lines"])
    for number, line in enumerate(lines_of(case, path), 1):
        answer = parsed(line, path, number)
        gone = "redacted" in answer and set(answer) == {"id", "redacted"}
        hidden += gone
        if (answer["redacted"] if gone else sha256(line)) != next(listed, None):
            raise Wrong(f"response {number} of {path} is not the one that was tested; it was swapped, moved or changed")
    if next(listed, None) is not None:
        raise Wrong(f"{path} lacks responses that were tested; they were dropped")
    if not hidden and found != stated["sha256"]:
        raise Wrong(f"{path} is not the file that was tested; it was changed or swapped")
    left = f"; {hidden} are redacted, their hashes stand" if hidden else ""
    return f"{number:,} responses in {path} are those that were tested{left}"


def check_log(case: Path, index: dict[str, Any]) -> str:
    """The log's chain is unbroken, and its answers are those in the bundle: none swapped, dropped or added."""
    _, requests = chained(case, role(index, "log"), "wmark-probe-log/1")
    logged = {line["id"]: line["answer_sha256"] for line in requests if line["answer_sha256"]}
    again = sum(bool(line["answer_sha256"]) for line in requests) - len(logged)
    seen, hidden = set(), 0
    plain = has(case, index, "answers") and read_json(case, role(index, "hashes"))["answers"]["lines"] is not None
    for number, line in enumerate(lines_of(case, role(index, "answers")) if plain else [], 1):
        answer = parsed(line, role(index, "answers"), number)
        if answer.get("id") not in logged:
            raise Wrong(f"response {number} ({answer.get('id')!r}) has no line in the query log; nobody asked for it")
        seen.add(answer["id"])
        if set(answer) == {"id", "redacted"}:
            hidden += 1
        elif sha256(canonical(answer)) != logged[answer["id"]]:
            raise Wrong(f"response {number} ({answer['id']!r}) is not the one whose hash the log holds; it was swapped")
    missing = sorted(set(logged) - seen) if plain else []
    if missing:
        raise Wrong(f"the query log holds an answer {missing[0]!r} that the responses lack; it was dropped")
    _, earliest = questions(case, index)
    first = f", the first at {earliest}" if requests else ""
    held = f"{len(seen):,} answers are the logged ones" if plain else "NOT CHECKED: answers are not here line by line"
    if again:
        held += f"; NOT CHECKED: {again} more were logged and asked for again, of which the responses hold the last"
    return f"{len(requests):,} requests in an unbroken chain{first}; {held}" + (
        f" ({hidden} redacted)" if hidden else ""
    )


def chained(case: Path, path: str, form: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(first line, the others): each holds its own hash and that of the line before."""
    previous, found = "", []
    for number, line in enumerate(lines_of(case, path), 1):
        entry = parsed(line, path, number)
        body = {name: value for name, value in entry.items() if name != "hash"}
        if sha256(canonical(body)) != entry.get("hash") or canonical(entry) + b"\n" != line:
            raise Wrong(f"{path}, line {number} does not match its hash; it was changed")
        if number == 1 and entry.get("format") != form:
            raise Wrong(f"{path} does not begin as {form}")
        if number > 1 and (entry.get("prev") != previous or entry.get("seq") != number - 2):
            raise Wrong(f"{path}, line {number}: a line before it is missing, moved or changed")
        previous = entry["hash"]
        found.append(entry)
    if not found:
        raise Wrong(f"{path} is empty")
    return found[0], found[1:]


def check_plan(case: Path, index: dict[str, Any], evidence: dict[str, Any]) -> str:
    """The plan is the one that the evidence names, is about this key, and the run departs in nothing."""
    plan = read_json(case, role(index, "plan"))
    if digest_of(plan) != plan.get("digest"):
        raise Wrong("the plan does not match its digest; it was changed after it was written")
    stated = evidence.get("plan")
    if stated is None:
        return f"the plan {plan['digest'][:16]}… came later: the evidence was made without one, and is exploratory"
    if stated["digest"] != plan["digest"]:
        raise Wrong("the plan in the bundle is not the one that the evidence was made under")
    for name in sorted(set(stated) & set(plan)):
        if stated[name] != plan[name]:
            raise Wrong(f"the evidence gives the plan's {name} as {stated[name]!r}, the plan itself as {plan[name]!r}")
    if stated["status"] not in ("confirmatory", "exploratory"):
        raise Wrong(f"the run's status under its plan is neither confirmatory nor exploratory: {stated['status']!r}")
    if plan["mark"]["commitment"] != evidence["mark"]["commitment"]:
        raise Wrong(
            f"the plan is about the key with commitment {plan['mark']['commitment'][:16]}…, the evidence about "
            f"{evidence['mark']['commitment'][:16]}…: another key was tested than planned"
        )
    if stated["status"] == "confirmatory":
        if stated["mismatches"]:
            raise Wrong(f"the run is called confirmatory, and departs from its plan: {stated['mismatches'][0]}")
        near("the plan's level", stated["level"], evidence["alpha"])
        near("the plan's level", plan["level"], plan["alpha"] / (plan["keys"] * plan["suspects"]))
    told = f"the plan {plan['digest'][:16]}… of {plan['created']}; the run is {stated['status']} under it"
    return told + check_plan_signatures(case, index)


def check_plan_signatures(case: Path, index: dict[str, Any]) -> str:
    """Who signed the plan by itself, before the case was there: a DSSE envelope that holds its bytes."""
    if not has(case, index, "plan_signature"):
        return ""
    envelope = read_json(case, role(index, "plan_signature"))
    if decoded(envelope["payload"], "the signed plan") != read(case, role(index, "plan"), MOST_JSON):
        raise Wrong("the signature of the plan is over another plan")
    message, who, left = before_signing(envelope), [], ""
    if not envelope["signatures"] or len({one["keyid"] for one in envelope["signatures"]}) < len(
        envelope["signatures"]
    ):
        raise Wrong("the signatures of the plan are none, or one key's twice")
    for one in envelope["signatures"]:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "plan.pem").write_text(one["cert"])
            good = signed_by(Path(folder) / "plan.pem", one["keyid"], decoded(one["sig"], "a signature"), message)
        if good is False:
            raise Wrong(f"the signature of the plan by {one['keyid'][:16]}… is not good: forged, or over another plan")
        left = "" if good else " (NOT CHECKED: openssl is needed)"
        who.append(one["keyid"][:16] + "…")
    return f"; it was signed by itself by {', '.join(who)}{left}"


def check_dates(case: Path, index: dict[str, Any], evidence: dict[str, Any], authorities: Sequence[Path] = ()) -> str:
    """Key and plan are older than the first question: by their own word, and by a time stamp where there is one."""
    log, first = questions(case, index)
    put = first is None and evidence.get("access") == "logits"  # no questions: texts were put before an open model
    if put:
        first = evidence["created"]
    stated = evidence.get("plan") or {}
    confirmatory = stated.get("status") == "confirmatory"
    if confirmatory and not has(case, index, "plan"):
        raise Wrong("the run is called confirmatory, and its plan is not in the bundle: nobody can hold it to that")
    if log and stated.get("first_question") not in (None, first):
        raise Wrong(f"the evidence gives {stated['first_question']} for the first question, the query log {first}")
    if first is not None and not put and moment(first) < moment(log["created"]):
        raise Wrong(f"the query log was begun at {log['created']}, after its first question ({first})")
    if first is not None and moment(evidence["created"]) + timedelta(seconds=1) < moment(first):  # told in seconds
        raise Wrong(f"the evidence is of {evidence['created']}, before the first question ({first})")
    said = [date_of_key(case, index, evidence, first, authorities)]
    if has(case, index, "plan"):
        said.append(date_of_plan(case, index, stated, first, authorities))
    if first is None:
        if confirmatory:
            raise Wrong(
                "the run is called confirmatory, and no query log shows that its plan is older than the first question"
            )
        return "; ".join([*said, "NOT CHECKED: no query log says when the first question was asked"])
    said.append(f"{'texts were put before the model by' if put else 'the first question was asked at'} {first}")
    if confirmatory:
        said.append(check_named(case, index, evidence, log))
    return "; ".join(said)


def date_of_key(
    case: Path, index: dict[str, Any], evidence: dict[str, Any], first: str | None, authorities: Sequence[Path]
) -> str:
    """Since when the key was there: by the time stamp of its commitment, else by the evidence's word."""
    made, digest = evidence["mark"].get("created"), sha256(evidence["mark"]["commitment"].encode())
    stamped = stamped_at(case, index, "commitment_token", digest, "the key", authorities)
    if made is None and stamped is None:
        return "NOT CHECKED: the evidence does not say when its key was made"
    return older("the key", str(made), stamped, first)


def date_of_plan(
    case: Path, index: dict[str, Any], stated: dict[str, Any], first: str | None, authorities: Sequence[Path]
) -> str:
    """Since when the plan was there, by its time stamp, else by its own word. stated: what the evidence says of it."""
    path = role(index, "plan")
    made = str(read_json(case, path)["created"])
    stamped = stamped_at(case, index, "plan_token", sha256_of(case / path), "the plan", authorities)
    check_since(stated.get("since"), made, stamped)
    last = stamped or made
    if stated.get("status") != "confirmatory" and first is not None and moment(last) > moment(first):
        return f"the plan is younger ({last}) than the first question ({first}), and the run exploratory"
    return older("the plan", made, stamped, first, so=", and the run cannot be called confirmatory")


def stamped_at(
    case: Path, index: dict[str, Any], token: str, digest: str, what: str, authorities: Sequence[Path]
) -> str | None:
    """When a time stamp of the bundle says that a SHA-256 existed; None without one."""
    if not has(case, index, token):
        return None
    return stamp_of(case / role(index, token), digest, f"the time stamp of {what}", authorities)[0]


def older(what: str, made: str, stamped: str | None, first: str | None, *, so: str = "") -> str:
    """A date that is not after the first question, in words. so: what follows if it is."""
    by, last = "by its own word alone" if stamped is None else f"by a time stamp of {stamped}", stamped or made
    if first is not None and moment(last) > moment(first):
        raise Wrong(
            f"{what} is younger ({last}, {by}) than the first question ({first}): it could have been chosen to fit the "
            f"answers{so}"
        )
    return f"{what} is of {last}, {by}"


def check_since(since: dict[str, Any] | None, made: str, stamped: str | None) -> None:
    """What the evidence says of the plan's age is what the plan and its time stamp say."""
    if since is None:
        return
    by_stamp = since["by"] != "its maker's word" or since["authority"] is not None
    if by_stamp and stamped is None:
        raise Wrong("the evidence says since when a time stamp dates its plan, and the bundle holds no such stamp")
    if moment(since["time"]) != moment(str(stamped) if by_stamp else made):
        raise Wrong(f"the evidence says that its plan is there since {since['time']}; it is so since {stamped or made}")


def questions(case: Path, index: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """(first line of the query log, when the earliest question was sent, wherever its line stands)."""
    if not has(case, index, "log"):
        return {}, None
    log, requests = chained(case, role(index, "log"), "wmark-probe-log/1")
    return log, min((line["time_sent"] for line in requests), key=moment, default=None)


def check_named(case: Path, index: dict[str, Any], evidence: dict[str, Any], log: dict[str, Any]) -> str:
    """A confirmatory run was asked under its plan: the log's first line names it, or a time stamp dates it."""
    named = log.get("plan")
    if named is not None and named["digest"] != evidence["plan"]["digest"]:
        raise Wrong(
            f"the questions were asked under the plan {named['digest'][:16]}…, the evidence is about the plan "
            f"{evidence['plan']['digest'][:16]}…: plans were swapped, and the run cannot be called confirmatory"
        )
    if named is not None and named.get("mismatches"):
        raise Wrong(f"the questions departed from the plan ({named['mismatches'][0]}), and the run is not confirmatory")
    if named is None and not has(case, index, "plan_token"):
        raise Wrong(
            "the query log names no plan, and the plan bears no time stamp: its date is its maker's word alone, and "
            "the run cannot be called confirmatory"
        )
    return "the query log names the plan" if named is not None else "the query log names no plan, its time stamp counts"


def check_commitments(
    case: Path, index: dict[str, Any], evidence: dict[str, Any], authorities: Sequence[Path] = ()
) -> str:
    """The tested keys stand in what was published of their set, before the first question, and none is held back."""
    published = read_json(case, role(index, "commitments"))
    if published.get("format") != "wmark-commitments/1" or digest_of(published) != published.get("digest"):
        raise Wrong("the published commitments do not match their digest; they were changed after they were written")
    if head_of(published["set"], published["mark"], published["keys"]) != published["head"]:
        raise Wrong("the published commitments do not lead to their head: a key was left out, added or changed")
    if {name: evidence["mark"].get(name) for name in ("prf", "scheme", "tokenizer")} != published["mark"]:
        raise Wrong(f"the set {published['set']} was published with another scheme or vocabulary than was tested")
    held, over = evidence["mark"], evidence.get("keys")
    tested = [held] if over is None else over["each"]
    listed = {key["commitment"]: key for key in published["keys"]}
    for key in tested:
        if key["commitment"] not in listed:
            raise Wrong(f"key {key['kid']} is none of the {len(listed)} published ones: it was not committed to")
        if moment(key["created"]) != moment(listed[key["commitment"]]["created"]):
            raise Wrong(f"key {key['kid']} is dated {key['created']}, published with another date")
    since = check_published_first(case, index, [listed[key["commitment"]] for key in tested], authorities)
    there = [key for key in published["keys"] if moment(key["created"]) <= moment(evidence["created"])]
    left = [key for key in there if key["commitment"] not in {one["commitment"] for one in tested}]
    if left and (evidence.get("plan") or {}).get("status") != "confirmatory":
        raise Wrong(
            f"{len(there)} keys were in force, and the evidence tells of {len(tested)}: key {left[0]['kid']} (epoch "
            f"{left[0]['epoch']}) is not disclosed as tested or not; a set is tested whole, or a plan names one key "
            "before anything is asked"
        )
    told = f"{len(tested)} of {len(there)} keys in force were tested"
    leaked = [key["kid"] for key in tested if listed[key["commitment"]]["revoked"] and not key.get("revoked")]
    if leaked:
        told += f"; NOT CHECKED: key {leaked[0]} was published as revoked and counts here; who had it could plant text"
    named = ", the one that the plan named beforehand" if left else ""
    return f"{told}{named}, all published in set {published['set']} (head {published['head'][:16]}…), {since}"


def check_published_first(
    case: Path, index: dict[str, Any], keys: list[dict[str, Any]], authorities: Sequence[Path]
) -> str:
    """The commitments of these keys are older than the first question: by a time stamp, else by their own dates."""
    _, first = questions(case, index)
    dates = [(max((key["created"] for key in keys), key=moment), "by its own word alone")]
    digest = sha256_of(case / role(index, "commitments"))
    stamped = stamped_at(case, index, "commitments_token", digest, "the commitments", authorities)
    if stamped is not None:
        dates.append((stamped, f"by a time stamp of {stamped}"))
    for when, by in dates:
        if first is not None and moment(when) > moment(first):
            raise Wrong(
                f"the commitment of a tested key is younger ({when}, {by}) than the first question ({first}): the key "
                "could have been chosen to fit the answers"
            )
    return dates[-1][1] if first is not None else "NOT CHECKED: no query log says when the first question was asked"


def check_detections(case: Path, index: dict[str, Any], evidence: dict[str, Any]) -> str:
    """Every test that was made of these answers is told; a confirmatory run has no more keys than its plan."""
    _, tests = chained(case, role(index, "detections"), "wmark-detections/1")
    keys = {evidence["mark"]["commitment"], *(test["commitment"] for test in tests)}
    own = "" if evidence["digest"] in {test["evidence"] for test in tests} else "; this one is not among them"
    plan = evidence.get("plan") or {}
    allowed = plan.get("keys", 1)  # a plan of scores fixes one
    if plan.get("status") == "confirmatory" and len(keys) > allowed:
        raise Wrong(
            f"{len(keys)} keys were tried on these answers, the plan allows {allowed}: the evidence tells of one "
            "and does not disclose the others"
        )
    return f"{len(tests)} tests of these answers were recorded, under {len(keys)} keys{own}"


# ----------------------------------------------------------------------------------------------------------------------
# 5. Afterwards: custody, signatures, time stamps.


def check_custody(case: Path, index: dict[str, Any]) -> str:
    """The events are chained, and each artifact has its event: the log's head, the manifests, the signatures."""
    header, events = chained(case, "custody.jsonl", "wmark-custody/1")
    if header.get("case") != index["case"]:
        raise Wrong("custody.jsonl is of another case")
    redacted = next((number for number, event in enumerate(events) if event["event"] == "redact"), None)
    before = case if redacted is None else case / "original"
    for event in events:
        if event["event"] == "probe" and has(case, index, "log"):
            _, requests = chained(case, role(index, "log"), "wmark-probe-log/1")
            if not requests or event["head"] != requests[-1]["hash"]:
                raise Wrong("the query log does not end where custody took it over; questions were added or dropped")
    last: dict[str, dict[str, Any]] = {}
    for number, event in enumerate(events):
        last[event["event"] + ("+" if redacted is not None and number > redacted else "")] = event
    for number, event in enumerate(events):
        if event["event"] == "sign":
            place = case if redacted is None or number > redacted else before
            name = f"signers/{event['keyid']}.pem"
            if sha256_of(place / name) != event["signer"]:
                raise Wrong(f"{name} is not the key that custody.jsonl tells of; it was changed or swapped")
    if "bundle" not in last or last["bundle"]["tagmanifest"] != sha256_of(before / "tagmanifest-sha256.txt"):
        raise Wrong("custody.jsonl tells of the sealing of another bundle: tagmanifest-sha256.txt differs")
    if redacted is not None and events[redacted]["tagmanifest"] != sha256_of(case / "tagmanifest-sha256.txt"):
        raise Wrong("custody.jsonl tells of another redaction: tagmanifest-sha256.txt differs")
    places = [(before, "")] if redacted is None else [(before, ""), (case, "+")]
    for place, mark in places:
        for name, event_name in (("attestation.dsse.json", "sign"), ("attestation.tsr", "timestamp")):
            told, there = last.get(event_name + mark), (place / name).exists()
            if there != (told is not None):
                raise Wrong(f"{name} {'has no event' if there else 'is gone, its event is'} in custody.jsonl")
            if told is not None and told["sha256"] != sha256_of(place / name):
                raise Wrong(f"{name} is not the one that custody.jsonl tells of; it was changed or swapped")
    return f"{len(events)} events in an unbroken chain: " + ", ".join(event["event"] for event in events)


def check_signatures(
    case: Path, index: dict[str, Any], evidence: dict[str, Any], wanted: list[Path], threshold: int
) -> str:
    """Every signature in the envelope is good; enough of them are by the keys that were named."""
    place = case if (case / "attestation.dsse.json").exists() else case / "original"
    if not (place / "attestation.dsse.json").exists():
        if wanted:
            raise Wrong("the bundle is not signed, and signatures were asked for")
        return "NOT CHECKED: the bundle is not signed"
    raw = read(place, "attestation.dsse.json", 8 << 20)
    envelope = loads(raw, "attestation.dsse.json")
    if canonical(envelope) + b"\n" != raw:
        raise Wrong("attestation.dsse.json is not in its one form; it was changed")
    payload = decoded(envelope["payload"], "the payload")
    check_statement(place, index, evidence, loads(payload, "the signed statement"))
    message = before_signing(envelope)
    good, left = [], ""
    for signature in envelope["signatures"]:
        name = f"signers/{signature['keyid']}.pem"
        if not (place / name).is_file():
            raise Wrong(f"{name} is missing: the key of a signature")
        outcome = signed_by(place / name, signature["keyid"], decoded(signature["sig"], "a signature"), message)
        if outcome is False:
            raise Wrong(f"the signature by {signature['keyid'][:16]}… is not good: forged, or over another bundle")
        left = "" if outcome else "NOT CHECKED: openssl is needed to check signatures; "
        good.append(signature["keyid"])
    if not good or len(set(good)) < len(good):
        raise Wrong("the envelope holds no signature, or one key's twice")
    if {f"{keyid}.pem" for keyid in good} != {path.name for path in (place / "signers").iterdir()}:
        raise Wrong("signers/ holds keys that signed nothing")
    told = f"{left}{len(good)} signatures are good, by the keys {', '.join(keyid[:16] + '…' for keyid in good)}"
    if not wanted:
        return told + "; whose keys these are was not asked (--signer WHO.pem)"
    named = {public_key(path)[1] for path in wanted} & set(good)
    if len(named) < threshold:
        raise Wrong(f"{len(named)} of the signers that were named have signed, {threshold} are needed")
    return told + f"; {len(named)} of them are by signers that were named, {threshold} are needed"


def before_signing(envelope: dict[str, Any]) -> bytes:
    """What a DSSE envelope's signatures are over: its pre-authentication encoding."""
    kind, payload = envelope["payloadType"].encode(), decoded(envelope["payload"], "the payload")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def check_statement(place: Path, index: dict[str, Any], evidence: dict[str, Any], statement: dict[str, Any]) -> None:
    """The signed statement is about these manifests and this evidence."""
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        if subjects.get(name) != sha256_of(place / name):
            raise Wrong(f"the signed statement is about another {name}: the signature is over another bundle")
    listed = listed_in(place, "manifest-sha256.txt")
    if subjects.get(role(index, "evidence")) != listed[role(index, "evidence")]:
        raise Wrong("the signed statement is about other evidence")
    said = statement["predicate"]
    for name in ("verdict", "log10_p", "digest"):
        if name in evidence and said["evidence"].get(name) != evidence[name]:
            raise Wrong(f"the signed statement gives another {name} than the evidence")


def signed_by(path: Path, keyid: str, signature: bytes, message: bytes) -> bool | None:
    """Whether the key in a PEM file made this signature; None where openssl is missing."""
    pem, found, kind = public_key(path)
    if found != keyid:
        raise Wrong(f"signers/{path.name} holds another key than its name says")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, content in (("key", pem), ("signature", signature), ("message", message)):
            (place / name).write_bytes(content)
        hashed = [] if kind == "Ed25519" else ["-digest", "sha256"]
        ran = openssl("pkeyutl", "-verify", "-pubin", "-inkey", place / "key", "-rawin", *hashed, "-in",
                      place / "message", "-sigfile", place / "signature")  # fmt: skip
    return None if ran is None else ran[0] == 0


def public_key(path: Path) -> tuple[bytes, str, str]:
    """(public key in PEM, SHA-256 of it in DER, its kind) from a public key or a certificate in PEM."""
    content = read(path.parent, path.name, 1 << 16)
    if b"BEGIN CERTIFICATE" in content:
        ran = openssl("x509", "-in", path, "-pubkey", "-noout")
        if ran is None or ran[0] != 0:
            raise Wrong(f"{path.name} is a certificate that could not be read (is openssl installed?)")
        content = ran[1]
    body = b"".join(content.split(b"-----")[2].split()) if content.count(b"-----") == 4 else b""
    der = decoded(body.decode("latin-1"), path.name)
    for kind, start, length in (("Ed25519", ED25519, 32), ("ECDSA", P256, 65)):
        if der.startswith(start) and len(der) == len(start) + length:
            return content, sha256(der), kind
    raise Wrong(f"{path.name} holds neither an Ed25519 key nor one on P-256")


def check_stamp(case: Path, authorities: Sequence[Path] = ()) -> str:
    """The time stamp is over the signed envelope; with the authority's certificate, openssl verifies it."""
    place = case if (case / "attestation.tsr").exists() else case / "original"
    if not (place / "attestation.tsr").exists():
        if authorities:
            raise Wrong("the bundle bears no time stamp, and one was asked for")
        return "NOT CHECKED: the bundle bears no time stamp"
    digest = sha256_of(place / "attestation.dsse.json")
    when, told = stamp_of(place / "attestation.tsr", digest, "the time stamp", authorities)
    return f"the envelope existed at {when}; {told}"


def stamp_of(path: Path, digest: str, what: str, authorities: Sequence[Path] = ()) -> tuple[str, str]:
    """(UTC time, how surely) of a time stamp over a SHA-256; Wrong if it is over other bytes, or of nobody named."""
    token = read(path.parent, path.name, 1 << 20)
    if bytes.fromhex(digest) not in token:
        raise Wrong(f"{what} is over other bytes: it does not hold SHA-256 {digest[:16]}…")
    ran = bare_token(path)
    if ran is None:
        found = re.search(rb"\x18[\x0f-\x17](\d{14})(?:\.\d+)?Z", token[token.index(bytes.fromhex(digest)) :])
        if found is None:
            raise Wrong(f"{what} names no time")
        when = datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC).isoformat()
        return when, "NOT CHECKED further: openssl is needed"
    dumped = re.findall(r"[0-9a-f]{4} - ([0-9a-f -]{47})", ran[1].decode("latin-1"))
    said = bytes.fromhex("".join(dumped).replace(" ", "").replace("-", ""))
    if ran[0] != 0 or not said.startswith(bytes.fromhex(digest)):
        raise Wrong(f"{what} was not granted over SHA-256 {digest[:16]}…")
    named = re.search(rb"\nTime stamp: ([A-Z][a-z]{2}) +(\d+) ([0-9:]{8})(?:\.\d+)? (\d{4}) GMT", ran[1])
    if named is None:
        raise Wrong(f"{what} names no time")
    month, day, clock, year = (part.decode() for part in named.groups())
    number = "JanFebMarAprMayJunJulAugSepOctNovDec".index(month) // 3 + 1
    when = f"{year}-{number:02}-{int(day):02}T{clock}+00:00"
    if not authorities:
        return when, "whose word that is was not asked (--authority TSA.pem)"
    for authority in authorities:
        checked = openssl("ts", "-verify", "-digest", digest, "-in", path, "-CAfile", authority)
        if checked is not None and checked[0] == 0:
            return when, "the named authority gave it"
    raise Wrong(f"{what} was not given by the named authority")


def bare_token(path: Path) -> tuple[int, bytes] | None:
    """(exit code, text) of the token in an authority's answer, without the status, whose words no signature covers."""
    with tempfile.TemporaryDirectory() as folder:
        ran = openssl("ts", "-reply", "-in", path, "-token_out", "-out", Path(folder) / "token")
        if ran is None or ran[0] != 0:
            return ran
        return openssl("ts", "-reply", "-in", Path(folder) / "token", "-token_in", "-text")


def openssl(*arguments: str | Path) -> tuple[int, bytes] | None:
    """(exit code, stdout); None where openssl is missing."""
    try:
        ran = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=60)
    except OSError:
        return None
    return ran.returncode, ran.stdout


# ----------------------------------------------------------------------------------------------------------------------
# 6. The numbers once more: cells from the responses, laws from the cells, totals from the keys.


def check_numbers(
    case: Path, index: dict[str, Any], evidence: dict[str, Any], key: Path | None
) -> Iterator[tuple[str, str]]:
    """Cells from the responses, laws from the cells, totals under decoy keys and under our own."""
    if evidence["format"] != "wmark-evidence/2":
        if key is not None:
            secret, told = open_commitment(key, evidence)
            yield "key", told
            if evidence["format"] == "wmark-attribution/1":
                yield "accounts", check_accounts(evidence, secret)
        return
    if not has(case, index, "cells"):
        yield "cells", "NOT CHECKED: the cells are not in the bundle; counts are as stated"
        if key is not None:
            yield "key", open_commitment(key, evidence)[1]
        return
    windows, choices, weights = read_cells(case, role(index, "cells"))
    if evidence["access"] == "text" and not (weights["votes"] == 1).all():
        raise Wrong("every cell of text has one vote, and in the file of cells some have another number")
    if known(evidence["mark"]) and windows.shape[1] != evidence["mark"]["scheme"]["parameters"]["window"]:
        raise Wrong(f"windows in the file of cells are {windows.shape[1]} tokens wide, the scheme's are not")
    names = sorted(weights) if evidence["access"] != "text" else []
    same_cells(evidence, windows, choices, [weights[name] for name in names])
    told = f"{len(choices):,} cells match the digest of the observations; "
    if has(case, index, "rows"):
        told += check_rows(case, index, evidence, np.column_stack([windows, choices]))
    else:
        told += "NOT CHECKED: that the responses give them"
    yield "cells", told
    if int(weights["votes"].sum()) != evidence["cells"]:
        raise Wrong(f"there are {int(weights['votes'].sum())} cells, stated are {evidence['cells']}")
    if evidence["weighted"] is not None:
        yield "laws", check_laws(evidence, weights)
    yield from check_totals(evidence, windows, choices, weights, key)


def check_totals(
    evidence: dict[str, Any], windows: Any, choices: Any, weights: dict[str, Any], key: Path | None
) -> Iterator[tuple[str, str]]:
    """Every total again: under each decoy key, and under our own where the watermark file is given."""
    scheme, deep = evidence["mark"]["scheme"], evidence["weighted"]
    if not known(evidence["mark"]):
        yield (
            "keys",
            f"NOT CHECKED: totals under keys are as stated, for the scheme {scheme['name']!r} is an engine's own; "
            "`wmark evidence verify --mark` recomputes them with the engine's recipe",
        )
        if key is not None:
            yield "key", open_commitment(key, evidence)[1]
        return
    names = ["votes", *([one["name"] for one in deep["statistics"]] if deep else [])]
    table = np.stack([weights[name] for name in names]).astype(np.int64)
    grouped = group(windows)
    seed = bytes.fromhex(evidence["observations"])
    if evidence["decoys"]["seed"] != evidence["observations"]:
        raise Wrong("the decoy keys were not drawn from the digest of these observations")
    stated = [evidence["decoys"]["totals"], *([deep["decoy_totals"][name] for name in names[1:]] if deep else [])]
    for number in range(len(stated[0])):
        found = totals(grouped, choices, table, decoy(seed, number), scheme)
        for name, row, total in zip(names, stated, found):
            if row[number] != total:
                raise Wrong(f"{name}: decoy key {number} is stated to total {row[number]}, recomputed it is {total}")
    yield "decoy keys", f"totals of {len(names)} statistics under {len(stated[0])} decoy keys are as stated"
    if key is None:
        yield "key", "NOT CHECKED: counts under our own key are as stated; who is given the key opens it with --key"
        return
    secret, told = open_commitment(key, evidence)
    yield "key", told
    own = totals(grouped, choices, table, secret, scheme)
    claimed = [evidence["green"], *([one["total"] for one in deep["statistics"]] if deep else [])]
    for name, total, stated_total in zip(names, own, claimed):
        if total != stated_total:
            raise Wrong(f"{name}: {stated_total} is stated under our key, recomputed it is {total}")
    counts = f"{own[0]:,} of {evidence['cells']:,} cells are green"
    if evidence.get("levels"):
        counts = f"{evidence['cells']:,} cells score {own[0]:,} in total"
    yield "our key", f"under it {counts}, and every total is as stated"


def open_commitment(path: Path, evidence: dict[str, Any]) -> tuple[bytes, str]:
    """The secret in a watermark file, which must open the commitment that the evidence names."""
    try:
        found = json.loads(path.read_bytes())
        secret, salt, kid = bytes.fromhex(found["key"]), bytes.fromhex(found["salt"]), str(found["kid"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Wrong(f"{path.name} is no readable watermark file") from None
    opened = sha256(b"wmark-commit-v1" + kid.encode() + salt + secret)
    if opened != evidence["mark"]["commitment"] or kid != evidence["mark"]["kid"]:
        raise Wrong(
            f"the key opens the commitment {opened[:16]}…, the evidence is about "
            f"{evidence['mark']['commitment'][:16]}…: it is another key"
        )
    return secret, f"the key opens the commitment {opened[:16]}…"


def check_accounts(evidence: dict[str, Any], secret: bytes) -> str:
    """Each account's kid is that of the key which the master, its name and its epoch give."""
    for one in evidence["exposures"]:
        kid = hkdf(secret, labelled("account", one["account"], one["epoch"]), 56)[48:].hex()
        if kid != one["kid"]:
            raise Wrong(f"the key of {one['account']} is {kid}, stated is {one['kid']}: another was tested")
    return f"{len(evidence['exposures'])} keys are those that names and epochs give"


def check_rows(case: Path, index: dict[str, Any], evidence: dict[str, Any], cells: Any) -> str:
    """The cells are those of the responses: none invented, and none left out that the rules allow.

    A window lies wholly inside a response, holds no special token, and stands neither in that response's prompt as
    tokens nor, without leading blanks, as text. cells: (n, h + 1) windows and tokens.
    """
    scheme, bound = evidence["mark"]["scheme"], evidence["mark"].get("tokenizer") or {}
    width, special = scheme["parameters"]["window"], set(bound.get("special_ids") or [])
    spelled = {int(i): bytes.fromhex(h) for i, h in read_json(case, role(index, "vocabulary")).items()}
    answers = [parsed(line, "the responses", n) for n, line in enumerate(lines_of(case, role(index, "answers")), 1)]
    rows = [parsed(line, role(index, "rows"), n) for n, line in enumerate(lines_of(case, role(index, "rows")), 1)]
    if [row["document"] for row in rows] != list(range(len(answers))):
        raise Wrong(f"{role(index, 'rows')} does not hold each response once, in order")
    there, met, prompted, otherwise = set(map(tuple, cells.tolist())), set(), set(), 0
    if len(there) < len(cells):
        raise Wrong("a cell is counted twice")
    for row, answer in zip(rows, answers):
        check_spelling(row, answer, spelled)
        allowed = set(scorable(row, width, special, spelled))
        missing = len(allowed - there)
        if missing and (row["as_it_came"] or answer.get("token_ids") is not None):
            raise Wrong(
                f"response {row['document'] + 1} gives {missing} cells that were not counted; none may be left out "
                "at will"
            )
        otherwise += missing > 0
        prompted |= set(scorable(as_asked(row, answer), width, special, spelled)) - allowed - there
        met |= allowed
    invented = len(there - met)
    if invented and all(answer.get("token_ids") is not None for answer in answers):
        raise Wrong(f"{invented} cells are counted that no response gives")
    told = (
        f"{len(rows):,} responses are spelt by their tokens and give {len(there) - invented:,} of {len(there):,} cells"
    )
    if any(answer.get("token_ids") is None for answer in answers):
        told += UNREAD
    if invented or otherwise:
        told += (
            f"; NOT CHECKED: {invented:,} from readings that undo escaping and copying are as stated, {otherwise:,} "
        )
        told += "responses were read otherwise than they came"
    if prompted:
        told += f"; NOT CHECKED: {len(prompted):,} cells were left out as prompts', which as they came do not hold them"
    return told


def scorable(
    row: dict[str, Any], width: int, special: set[int], spelled: dict[int, bytes]
) -> Iterator[tuple[int, ...]]:
    """The cells (window and token) of one response that may be counted."""
    ids, asked = row["ids"], row["asked"]
    prompted = {tuple(ids[i : i + width]) for ids in row["prompt_ids"] or [] for i in range(len(ids) - width + 1)}
    for place in range(width, len(ids)):
        window = tuple(ids[place - width : place])
        if special.intersection(window) or ids[place] in special or window in prompted:
            continue
        if asked and spelled and b"".join(spelled[i] for i in window).decode("utf-8", "replace").lstrip() in asked:
            continue
        yield (*window, ids[place])


def as_asked(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A response with its prompt as it came alone, not in other readings, which are the owner's word."""
    asked = answer.get("prompt") or ""
    if not isinstance(asked, str):
        asked = "\n".join(turn["content"] for turn in asked)
    ids = answer.get("prompt_token_ids")
    return {"ids": row["ids"], "asked": asked, "prompt_ids": None if ids is None else [ids]}


def check_spelling(row: dict[str, Any], answer: dict[str, Any], spelled: dict[int, bytes]) -> None:
    """A response's tokens are those that it came with, or spell its text."""
    number = row["document"] + 1
    if answer.get("token_ids") is not None:
        if answer["token_ids"] != row["ids"]:
            raise Wrong(f"the tokens of response {number} are not those that it came with")
        return
    spelt = b"".join(spelled.get(i, b"") for i in row["ids"]).decode("utf-8", "replace")
    if spelt.lstrip() != answer["text"].lstrip():
        raise Wrong(f"the tokens of response {number} do not spell its text")


def read_cells(case: Path, path: str) -> tuple[Any, Any, dict[str, Any]]:
    """(windows, choices, weights by name) of a file of cells: arrays alone, nothing that runs."""
    try:
        with zipfile.ZipFile(case / path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_ARRAYS:
                raise Wrong(f"{path} unpacks to more than {MOST_ARRAYS >> 30} GiB")
        with np.load(case / path, allow_pickle=False) as found:
            windows, choices = found["windows"], found["choices"]
            weights = {name[7:]: found[name] for name in found.files if name.startswith("weight.")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise Wrong(f"{path} is no file of cells: {error}") from None
    if (
        windows.ndim != 2
        or any(a.shape != (len(windows),) for a in (choices, *weights.values()))
        or "votes" not in weights
    ):
        raise Wrong(f"{path}: its arrays do not fit together")
    return windows, choices, weights


def same_cells(evidence: dict[str, Any], windows: Any, choices: Any, weights: list[Any]) -> None:
    parts = [windows.astype("<u4"), choices.astype("<u4"), *(each.astype("<i4") for each in weights)]
    found = sha256(b"".join(part.tobytes() for part in parts))
    if found != evidence["observations"]:
        raise Wrong(
            f"the cells are not those that were tested: their digest is {found[:16]}…, stated is "
            f"{evidence['observations'][:16]}…"
        )


def check_laws(evidence: dict[str, Any], weights: dict[str, Any]) -> str:
    """Each statistic's numbers from its weights and its total as stated."""
    chances, alternative, bounds = law_of(evidence), evidence["alternative"], 0
    for one in evidence["weighted"]["statistics"]:
        name, law = one["name"], Sum.of(weights[one["name"]], chances)
        near(f"the mean of {name}", one["mean"], law.mean)
        near(f"the sd of {name}", one["sd"], law.sd)
        near(f"the e-value of {name} (log10)", one["log10_e"], law.log10_evalue(one["total"], alternative))
        near(f"Chernoff's bound of {name}", one["log10_chernoff"], law.both(one["total"], alternative, exact=False))
        if one["tail"] == "Chernoff bound":
            near(f"log10 p of {name}", one["log10_p"], one["log10_chernoff"])
            bounds += 1
            continue
        tail = law.both(one["total"], alternative, exact=True)
        if tail is not None:
            near(f"log10 p of {name}", one["log10_p"], tail)
        bounds += tail is None
    told = f", {bounds} of them by Chernoff's bound alone" if bounds else ""
    return (
        f"{len(evidence['weighted']['statistics'])} statistics: mean, sd, e-value and tail follow from the cells{told}"
    )


# ----------------------------------------------------------------------------------------------------------------------
# 7. The keyed function: `arx32-v1`: windows by rounds of Chaskey, tokens by a short mix, all modulo 2^32.


def totals(grouped: tuple[Any, Any], choices: Any, table: Any, secret: bytes, scheme: dict[str, Any]) -> list[int]:
    """Sums of weights times scores under one key; a cell's score is 1 where it is green, or what two tables give."""
    windows, which = grouped
    states = absorbed(windows, subkey(secret, scheme["name"]))
    numbers = drawn([column[which] for column in states], choices.astype(np.uint32))
    if "gamma" in scheme["parameters"]:
        green = numbers < np.uint32(round(scheme["parameters"]["gamma"] * 2**32))
        return [int(row[green].sum()) for row in table]
    high, low = tables(scheme["name"], scheme["parameters"].get("depth"))
    scores = high[numbers >> np.uint32(16)] + low[numbers & np.uint32(0xFFFF)]
    return [int(row @ scores) for row in table]


@functools.lru_cache(maxsize=1)  # made once for all keys
def tables(name: str, depth: Any) -> tuple[Any, Any]:
    """Of schemes with graded scores: what the first and the last 16 bits of a cell's number add to its score.

    depth: how many layers a tournament has; gumbel has none.
    """
    steps = np.arange(1 << 16)
    if name == "gumbel":  # -ln(1 - u) of the first 16 bits of u, in quarters of a nat
        scores = [round(-math.log((65536 - step - 0.5) / 65536) / 0.25) for step in range(1 << 16)]
        return np.array(scores), np.zeros(1 << 16, np.int64)
    # a tournament's coins, of weight 10 in the first layer to 1 in the last
    weights = [1 if depth == 1 else round(10 - 9 * layer / (depth - 1)) for layer in range(depth)] + [0] * (32 - depth)
    coins = np.stack([(steps >> (15 - place)) & 1 for place in range(16)])
    return np.array(weights[:16]) @ coins, np.array(weights[16:]) @ coins


def group(windows: Any) -> tuple[Any, Any]:
    """(distinct windows, which of them each cell has)."""
    distinct, which = np.unique(windows, axis=0, return_inverse=True)
    return distinct, which.reshape(-1)


def decoy(seed: bytes, number: int) -> bytes:
    """The secret of a decoy key: HKDF of the seed (RFC 5869), its number in the label."""
    return hkdf(seed, b"wmark-decoy-v1" + struct.pack(">Q", number), 48)[:32]


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    extracted, block, output = hmac.new(bytes(32), secret, "sha256").digest(), b"", b""
    while len(output) < length:
        block = hmac.new(extracted, block + info + bytes([len(output) // 32 + 1]), "sha256").digest()
        output += block
    return output[:length]


def labelled(*labels: str) -> bytes:
    """What HKDF derives a key for: labels, each after its length."""
    return b"wmark/v1" + b"".join(struct.pack(">I", len(each)) + each for each in (label.encode() for label in labels))


def subkey(secret: bytes, scheme: str = "greenlist") -> Any:
    """The eight 32-bit words that a scheme works with."""
    return np.frombuffer(hkdf(secret, labelled("scheme", f"{scheme}/1"), 32), dtype="<u4").astype(np.uint32)


def absorbed(windows: Any, words: Any) -> list[Any]:
    """Four words of state for each window (n, h)."""
    count, width = windows.shape
    state = [np.full(count, word, dtype=np.uint32) for word in words[:4]]
    padded = np.zeros((count, -(-width // 4) * 4), dtype=np.uint32)
    padded[:, :width] = windows
    for start in range(0, padded.shape[1], 4):
        state = rounds(state) if start else state
        state = [word ^ padded[:, start + i] for i, word in enumerate(state)]
    state = [word ^ words[4 + i] for i, word in enumerate(rounds(state))]
    state[3] = state[3] ^ np.uint32(width)
    return [word ^ words[i] for i, word in enumerate(rounds(state))]


def rounds(state: list[Any]) -> list[Any]:
    a, b, c, d = state
    for _ in range(4):
        a = a + b
        b = turned(b, 5) ^ a
        a = turned(a, 16)
        c = c + d
        d = turned(d, 8) ^ c
        a = a + d
        d = turned(d, 13) ^ a
        c = c + b
        b = turned(b, 7) ^ c
        c = turned(c, 16)
    return [a, b, c, d]


def turned(word: Any, by: int) -> Any:
    return (word << np.uint32(by)) | (word >> np.uint32(32 - by))


def drawn(state: list[Any], tokens: Any) -> Any:
    """The number of each cell."""
    x = tokens + state[0]
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) + state[1]
    x = x * (state[2] | np.uint32(1))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x846CA68B)
    return x + state[3]


# ----------------------------------------------------------------------------------------------------------------------
# 8. Laws: of a cell's score, of counts, of weighted sums, of a cosine; ranks and e-values.


def law_of(evidence: dict[str, Any]) -> list[float]:
    """The chances of a cell's score 0, 1, … under any key: of our own schemes from their parameters, else as stated."""
    stated = evidence.get("levels") or [1 - evidence["gamma"], evidence["gamma"]]
    law = law_of_scheme(evidence["mark"])
    if law is None:
        return list(stated)
    if len(law) != len(stated):
        raise Wrong(f"scores are stated to have {len(stated)} levels, those of the scheme have {len(law)}")
    for level, (told, own) in enumerate(zip(stated, law)):
        if not math.isclose(told, own, rel_tol=1e-9):
            raise Wrong(f"the chance of level {level} is stated as {told}, recomputed it is {own}")
    near("gamma", evidence["gamma"], sum(level * chance for level, chance in enumerate(law)) / (len(law) - 1))
    return law


def law_of_scheme(mark: dict[str, Any]) -> list[float] | None:
    """The same from the scheme alone; None of schemes that are not known here."""
    scheme = mark["scheme"]
    if not known(mark):
        return None
    if "gamma" in scheme["parameters"]:
        below = round(scheme["parameters"]["gamma"] * 2**32)
        return [1 - below / 2**32, below / 2**32]
    high, low = (np.bincount(table).tolist() for table in tables(scheme["name"], scheme["parameters"].get("depth")))
    found: list[float] = (np.convolve(high, low) / 2.0**32).tolist()
    return found


def known(mark: dict[str, Any]) -> bool:
    """Whether scores of this mark can be made here: our own schemes, in their first version."""
    name, version = mark["scheme"]["name"], mark["scheme"]["version"]
    return version == 1 and mark["prf"] == "arx32-v1" and name in ("greenlist", "antidistill", "gumbel", "tournament")


def counted(evidence: dict[str, Any], total: int) -> float | None:
    """log10 of the exact p-value of a total score of all cells; None where its lattice is too large."""
    n, law, alternative = evidence["cells"], law_of(evidence), evidence["alternative"]
    if len(law) == 2:
        return binomial(total, n, law[1], alternative)
    return Sum(np.ones(1, np.int64), np.array([n]), law).both(total, alternative, exact=True)


def binomial(successes: int, n: int, p: float, alternative: str) -> float:
    """log10 of the exact binomial p-value: all n + 1 chances by their ratios, divided by their sum."""
    if not 0 <= successes <= n:
        raise Wrong(f"{successes} green cells of {n} cannot be")
    k = np.arange(1, n + 1, dtype=np.longdouble)
    ratios = np.log((n - k + 1) / k) + np.log(np.longdouble(p)) - np.log1p(-np.longdouble(p))
    logs = np.concatenate([np.zeros(1, np.longdouble), np.cumsum(ratios)])
    logs -= logs.max()
    whole = np.sum(np.exp(logs))
    above = log_sum(logs[successes:]) - np.log(whole)
    below = log_sum(logs[: successes + 1]) - np.log(whole)
    if alternative == "two-sided":
        return min(0.0, float(min(above, below) + np.log(np.longdouble(2))) / math.log(10))
    return min(0.0, float(above if alternative == "greater" else below) / math.log(10))


def log_sum(logs: Any) -> Any:
    top = logs.max()
    return top + np.log(np.sum(np.exp(logs - top)))


class Sum:
    """S = sum of k X over independent scores X of 0, 1, … L, whose chances are given; a green bit has L = 1.

    values, counts: distinct k, and of each how many.
    """

    def __init__(self, values: Any, counts: Any, chances: Any) -> None:
        self.values, self.counts, self.chances = values, counts, np.asarray(chances)
        self.levels = np.arange(len(self.chances))
        middle = math.fsum((self.levels * self.chances).tolist())
        spread = math.fsum(((self.levels - middle) ** 2 * self.chances).tolist())
        self.middle = middle
        self.mean = middle * float(values @ counts)
        self.sd = math.sqrt(spread * float(values.astype(float) ** 2 @ counts))

    @classmethod
    def of(cls, weights: Any, chances: Sequence[float]) -> Sum:
        values, counts = np.unique(weights[weights != 0].astype(np.int64), return_counts=True)
        return cls(values, counts, chances)

    def mirrored(self) -> Sum:
        """The law of -S."""
        return Sum(-self.values, self.counts, self.chances)

    def log_mgf(self, bet: float) -> float:
        """log E exp(bet (S - mean))."""
        exponents = np.multiply.outer(bet * self.values, self.levels - self.middle)
        top = exponents.max(axis=1)
        far = top > 30
        each = np.log1p(np.expm1(np.where(far[:, None], 0.0, exponents)) @ self.chances)
        if far.any():
            each[far] = top[far] + np.log(np.exp(exponents[far] - top[far][:, None]) @ self.chances)
        return float(each @ self.counts)

    def log10_evalue(self, total: int, alternative: str) -> float:
        """Mean of exp(bet (S - mean)) / E over bets 1, 1.4, 2, ... 128 standard deviations' inverses."""
        if not self.sd:
            return 0.0
        sides = {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]
        bets = [side * 2 ** (i / 2) / self.sd for side in sides for i in range(15)]
        return mean_of_evalues([((total - self.mean) * bet - self.log_mgf(bet)) / math.log(10) for bet in bets])

    def both(self, total: int, alternative: str, *, exact: bool) -> float | None:
        """log10 of the tail in the test's direction; of both, twice the smaller."""
        sides = {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]
        found = [(self if side == 1 else self.mirrored()).upper(side * total, exact=exact) for side in sides]
        if any(one is None for one in found):
            return None
        smaller = min(one for one in found if one is not None)
        return (min(0.0, smaller + math.log(2)) if len(sides) == 2 else smaller) / math.log(10)

    def upper(self, total: int, *, exact: bool) -> float | None:
        """log P(S >= total), or Chernoff's bound on it; None where the lattice is too large."""
        positive, negative = self.values > 0, self.values < 0
        most = len(self.chances) - 1
        highest = most * int((self.values * self.counts)[positive].sum())
        lowest = most * int((self.values * self.counts)[negative].sum())
        if total <= lowest or (total <= self.mean and not exact):
            return 0.0
        if total >= highest:
            sure = float(self.counts[positive].sum()) * math.log(self.chances[-1])
            sure += float(self.counts[negative].sum()) * math.log(self.chances[0])
            return sure if total == highest else -math.inf
        if total <= self.mean:
            other = self.mirrored().upper(1 - total, exact=True)
            return None if other is None else math.log1p(-math.exp(other))
        bet = self.bet_for(total)
        bound = self.log_mgf(bet) - bet * (total - self.mean)
        if not exact:
            return min(0.0, bound)
        series = self.series(total, bet)
        return None if series is None else bound + math.log(series)

    def bet_for(self, total: int) -> float:
        """The tilt that moves the mean to `total`, by halving."""
        low, high = 0.0, 1.0 / max(1, int(np.abs(self.values).max()))
        while self.tilted(high)[1] < total and high < 1e6:
            high *= 2
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if self.tilted(middle)[1] < total else (low, middle)
            if high - low <= 1e-15 * high:
                break
        return (low + high) / 2

    def tilted(self, bet: float) -> tuple[Any, float]:
        """(chance of each score for each value, mean) under the tilt."""
        with np.errstate(divide="ignore"):
            logs = np.multiply.outer(bet * self.values, self.levels) + np.log(self.chances)
        made = np.exp(logs - logs.max(axis=1, keepdims=True))
        made /= made.sum(axis=1, keepdims=True)
        return made, float((self.counts * self.values) @ (made @ self.levels))

    def series(self, total: int, bet: float) -> float | None:
        """Sum over x >= 0 of exp(-bet x) P'(S = total + x), P' the tilted law, whose chances come from one inverse FFT.

        The grid is wide enough by Bernstein's inequality that less than 1e-15 of the tilted law wraps around. Left out
        are frequencies t where |phi(t)| < e^-50: log |phi| is at most minus the sum of r_d (1 - cos(t k d)), r_d the
        chance that two tilted scores differ by d.
        """
        made, mean = self.tilted(bet)
        means = made @ self.levels
        spread = float(self.counts * self.values.astype(float) ** 2 @ (made @ self.levels**2 - means**2))
        most = len(self.levels) - 1
        widest = most * int(np.abs(self.values).max())
        away = 12 * widest + math.sqrt(144 * widest**2 + 72 * spread) + abs(total - mean) + 1
        size = 64
        while size < 2 * away:
            size *= 2
        if size > 1 << 25:
            return None
        apart = np.stack([(made[:, : most + 1 - d] * made[:, d:]).sum(axis=1) for d in range(1, most + 1)], axis=1)
        apart *= self.counts[:, None]
        where = np.multiply.outer(self.values, self.levels[1:]) % size
        histogram = np.bincount(where.reshape(-1), weights=apart.reshape(-1), minlength=size)
        kept = np.flatnonzero(apart.sum() - np.fft.rfft(histogram).real < 50.0)
        if len(kept) * len(self.values) * most > 1 << 28:
            return None
        phi = np.zeros(size // 2 + 1, dtype=complex)
        step = max(1, (1 << 20) // len(self.values))
        for start in range(0, len(kept), step):
            at = kept[start : start + step]
            turns = np.exp(2j * np.pi / size * (at[:, None] * (self.values % size) % size))
            each = made[:, -1] * np.ones(turns.shape, dtype=complex)
            for level in range(most - 1, -1, -1):  # Horner
                each = each * turns + made[:, level]
            with np.errstate(divide="ignore"):
                phi[at] = np.exp(np.log(each) @ self.counts)
        chances = np.fft.irfft(np.conj(phi), size)[(total + np.arange(size // 2)) % size]
        with np.errstate(under="ignore"):
            found = float(chances @ np.exp(-bet * np.arange(size // 2)))
        return found if found > 0 else None


def cosine_tail(c: float, dimensions: int, alternative: str) -> float:
    """log10 P(cos >= c) of a uniform direction: cos^2 is Beta(1/2, (D-1)/2), with a random sign."""
    if alternative == "two-sided":
        return min(0.0, cosine_tail(abs(c), dimensions, "greater") + math.log10(2))
    c, a = max(-1.0, min(1.0, -c if alternative == "less" else c)), (dimensions - 1) / 2
    square = max(c * c, 0.0)
    log_beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    if square < 0.5 and square * a < 4:  # less the middle, I(1/2, a) of c^2: a series of positive terms (DLMF 8.17.8)
        middle = 0.0
        if square:
            grown = log_sum_of_ratios(lambda n: (a + 0.5 + n) / (1.5 + n) * square, 1e-17)
            middle = math.exp(0.5 * math.log(square) + a * math.log1p(-square) - log_beta + math.log(2) + grown)
        half = 0.5 * (1 - middle)
        return math.log10(half if c >= 0 else 1 - half)
    x = max(1 - square, 2.0**-52)
    grown = log_sum_of_ratios(lambda n: (a + 0.5 + n) / (a + 1 + n) * x, 1e-17)
    log_half = a * math.log(x) + 0.5 * math.log(square) - math.log(a) - log_beta + grown + math.log(0.5)
    return (log_half if c > 0 else math.log1p(-math.exp(log_half))) / math.log(10)


def log_sum_of_ratios(ratio: Any, least: float) -> float:
    """log of 1 + r(0) + r(0) r(1) + …, positive terms that fall in the end; until they are below `least` of the sum."""
    total, term, start, size = 1.0, 1.0, 0, 256
    while term > least * total and start < 1 << 28:
        terms = term * np.cumprod(ratio(np.arange(start, start + size, dtype=float)))
        total, term, start, size = total + float(terms.sum()), float(terms[-1]), start + size, min(2 * size, 1 << 20)
    return math.log(total)


def cosine_evalue(c: float, dimensions: int, alternative: str) -> float:
    """log10 of the mean of exp(k c) / M(k) over k = sqrt(D) 1, 2, 4 … 64; M(k) = 0F1(; D/2; k^2/4), its mean."""
    signs = {"greater": [1.0], "less": [-1.0], "two-sided": [1.0, -1.0]}[alternative]
    bets = []
    for bet in (math.sqrt(dimensions) * 2.0**power for power in range(7)):
        n = np.arange(int(2 * bet) + 200)
        logs = np.concatenate([[0.0], np.cumsum(2 * math.log(bet / 2) - np.log(n + 1) - np.log(n + dimensions / 2))])
        bets += [(sign * c * bet - float(log_sum(logs))) / math.log(10) for sign in signs]
    return mean_of_evalues(bets)


def rank(observed: float, null: Any, mean: float, alternative: str) -> float:
    """(1 + b) / (1 + m): b of m decoys do at least as well (Phipson and Smyth 2010)."""
    if alternative == "less":
        observed, null = -observed, -null
    if alternative == "two-sided":
        observed, null = abs(observed - mean), np.abs(null - mean)
    return float((1 + np.sum(null >= observed)) / (1 + len(null)))


def mean_of_evalues(log10_e: list[float]) -> float:
    """log10 of the mean of 10^x."""
    top = max(log10_e)
    return top + math.log10(sum(10 ** (x - top) for x in log10_e) / len(log10_e))


# ----------------------------------------------------------------------------------------------------------------------
# 9. Small things: reading, JSON, base64, times, hashes.


def near(name: str, stated: float, computed: float | None) -> None:
    """Equal to one part in a million: libraries differ in the last digits."""
    if computed is None or not math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9):
        raise Wrong(f"{name} is stated as {stated}, recomputed it is {computed}")


def read(folder: Path, name: str, most: int) -> bytes:
    path = folder / name
    if not path.is_file():
        raise Wrong(f"{name} is missing")
    if path.stat().st_size > most:
        raise Wrong(f"{name} has {path.stat().st_size:,} bytes, more than the {most:,} that such a file may have")
    return path.read_bytes()


def read_json(case: Path, name: str) -> dict[str, Any]:
    return loads(read(case, name, MOST_JSON), name)


def loads(content: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise Wrong(f"{name} is not JSON") from None
    if not isinstance(found, dict):
        raise Wrong(f"{name} is no JSON object")
    return found


def lines_of(case: Path, name: str) -> Iterator[bytes]:
    """Lines with their ends, one at a time; one that is too long, or has no end, is refused."""
    if not (case / name).is_file():
        raise Wrong(f"{name} is missing")
    with (case / name).open("rb") as stream:
        for number in itertools.count(1):
            line = stream.readline(MOST_LINE + 1)
            if not line:
                return
            if len(line) > MOST_LINE:
                raise Wrong(f"{name}, line {number} is longer than {MOST_LINE >> 20} MiB")
            if not line.endswith(b"\n") and name != "data/answers.jsonl":
                raise Wrong(f"{name}, line {number} has no end; the file was cut short")
            yield line


def parsed(line: bytes, name: str, number: int) -> dict[str, Any]:
    return loads(line, f"{name}, line {number}")


def canonical(value: Any) -> bytes:
    """Keys sorted, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(found: dict[str, Any]) -> str:
    """What a file's `digest` should be: SHA-256 over the canonical form of all its other fields."""
    return sha256(canonical({name: value for name, value in found.items() if name != "digest"}))


def decoded(text: str, name: str) -> bytes:
    """Base64 in its one form."""
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        raise Wrong(f"{name} is not base64") from None
    if base64.b64encode(found).decode() != text:
        raise Wrong(f"{name} is not base64 in its one form")
    return found


def moment(told: str) -> datetime:
    try:
        found = datetime.fromisoformat(told)
    except (ValueError, TypeError):
        raise Wrong(f"{told!r} is no time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_of(path: Path) -> str:
    if not path.is_file():
        raise Wrong(f"{path.name} is missing")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# 10. The command line: a zip is unpacked, every step is printed.


def main() -> int:
    described, *_ = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(prog="verify.py", description=described)
    parser.add_argument("case", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--key", type=Path, help="the watermark file, which opens the commitment")
    parser.add_argument("--signer", type=Path, action="append", default=[], help="a signer's public key or certificate")
    parser.add_argument("--threshold", type=int, default=1, help="how many of the named signers must have signed")
    parser.add_argument("--authority", type=Path, action="append", default=[], help="certificate of an authority")
    given = parser.parse_args()
    if not 1 <= given.threshold <= max(1, len(given.signer)):
        parser.error(f"{given.threshold} signatures of {len(given.signer)} named signers cannot be")
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, "utf-8", "backslashreplace", line_buffering=True)
    left = 0
    try:
        with tempfile.TemporaryDirectory() as place:
            case = unpacked(given.case, Path(place)) if given.case.is_file() else given.case
            found = steps(
                case, key=given.key, signers=given.signer, threshold=given.threshold, authorities=given.authority
            )
            for number, (name, told) in enumerate(found, 1):
                left += "NOT CHECKED" in told
                print(f"{number:>2}. {name}: {told}")
    except Wrong as error:
        print(f"DOES NOT HOLD: {error}")
        return 3
    except OTHER_FORM as error:
        print(
            f"DOES NOT HOLD: a file of the bundle lacks something, or has it in another form ({type(error).__name__})"
        )
        return 3
    print(f"All that was checked holds; {left} steps say what was not checked." if left else "Everything holds.")
    return 0


def unpacked(case: Path, folder: Path) -> Path:
    """A zip of ours unpacked: stored files under plain names, and to the byte the zip that they give."""
    try:
        with zipfile.ZipFile(case) as archive:
            entries = archive.infolist()
            for entry in entries:
                if not NAME.fullmatch(entry.filename):
                    raise Wrong(f"{case.name} would unpack to {entry.filename!r}, outside of a bundle's folder")
                if entry.compress_type or entry.compress_size != entry.file_size:
                    raise Wrong(f"{entry.filename} is compressed; a bundle's zip stores its files as they are")
            if sum(entry.file_size for entry in entries) > case.stat().st_size or len(entries) > 2000:
                raise Wrong(f"{case.name} says that it unpacks to more than it holds")
            for entry in entries:
                (folder / entry.filename).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, (folder / entry.filename).open("xb") as sink:
                    while part := source.read(1 << 20):
                        sink.write(part)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise Wrong(f"{case.name} is not a bundle's zip: {error}") from None
    central, at = b"", 0
    with case.open("rb") as stream:
        for name in sorted(files_of(folder)):
            content = (folder / name).read_bytes()
            common = struct.pack("<5H3I2H", 10, 2048, 0, 0, 33, zlib.crc32(content), *[len(content)] * 2, len(name), 0)
            local = b"PK\x03\x04" + common + name.encode()
            central += b"PK\x01\x02" + struct.pack("<H", 788) + common
            central += struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, at) + name.encode()
            at += len(local) + len(content)
            if stream.read(len(local) + len(content)) != local + content:
                raise Wrong(f"{case.name} is not the zip that its files give; its frame was changed")
        count = len(files_of(folder))
        if stream.read() != central + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, len(central), at, 0):
            raise Wrong(f"{case.name} is not the zip that its files give; its frame was changed")
    return folder


if __name__ == "__main__":
    sys.exit(main())
