"""Prompts from one's own traffic: what users asked, never what was answered, and nothing that carried the mark.

A probe must not carry our mark: a suspect that repeats its prompt would look exposed. Records served under a mark
are therefore refused; of a conversation only the first thing that the user said is taken.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from watermark.errors import OutputsInvalid
from watermark.files import canonical_json, write_new
from watermark.ledger import is_ledger, read_ledger, shown

LONGEST = 2000


@dataclass(frozen=True)
class Gathered:
    """What became of the records of a traffic file. written: prompts in the output; the rest was left out."""

    read: int
    written: int
    marked: int
    repeated: int
    overlong: int
    empty: int
    surplus: int


def gather_prompts(
    traffic: str | Path,
    output: str | Path,
    *,
    count: int | None = None,
    seed: int = 0,
    longest: int = LONGEST,
    skip_marked: bool = False,
) -> Gathered:
    """Writes {id, prompt} lines from a ledger, answers of `wmark generate`, or chat logs {messages}, as JSON Lines.

    count: so many, drawn by the hash of seed and prompt, so that neither the order of the traffic nor repeats decide;
    None for all. longest: in characters; longer prompts are left out. skip_marked: leave out what was served under
    a mark instead of refusing the file. `output` must not exist yet. Raises OutputsInvalid, and LedgerInvalid if the
    traffic is a ledger that does not verify.
    """
    output = Path(output)
    found: dict[str, str] = {}
    tally = {"read": 0, "marked": 0, "repeated": 0, "overlong": 0, "empty": 0}
    for where, record in _records(traffic):
        tally["read"] += 1
        reason = _left_out(record, where, found, longest, skip_marked)
        if reason:
            tally[reason] += 1
    chosen = sorted(found.values(), key=lambda text: _order(seed, text))[:count]
    if not chosen:
        raise OutputsInvalid(f"{shown(traffic)} holds no prompt that can be used: {_said(tally)}")
    lines = [canonical_json({"id": f"own-{_order(0, text)[:12]}", "prompt": text}) + b"\n" for text in chosen]
    try:
        write_new(output, b"".join(lines))
    except FileExistsError:
        raise OutputsInvalid(f"{output} exists already; nothing was written", hint="choose another --output") from None
    return Gathered(written=len(chosen), surplus=len(found) - len(chosen), **tally)


def _left_out(record: dict[str, Any], where: str, found: dict[str, str], longest: int, skip_marked: bool) -> str | None:
    """Adds the record's prompt to `found`, or says why not."""
    if _is_marked(record):
        if not skip_marked:
            raise OutputsInvalid(
                f"{where}: it was served under a mark; a probe must not come from marked traffic",
                hint="pass traffic that was served without a mark, or leave such records out with --skip-marked",
            )
        return "marked"
    text = _asked(record, where).strip()
    if not text:
        return "empty"
    if len(text) > longest:
        return "overlong"
    same = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    if same in found:
        found[same] = min(found[same], text)  # whichever comes first in the file, the same one stays
        return "repeated"
    found[same] = text
    return None


def _is_marked(record: dict[str, Any]) -> bool:
    """Whether a receipt, ours in `meta` or a ledger's, says that the mark was applied, or a kid stands there."""
    meta = record.get("meta")
    for holder in (record, meta if isinstance(meta, dict) else {}):
        receipt = holder.get("receipt")
        if holder.get("kid") or (isinstance(receipt, dict) and (receipt.get("applied") or receipt.get("kid"))):
            return True
    return False


def _asked(record: dict[str, Any], where: str) -> str:
    """What the user said first."""
    prompt = record.get("messages", record.get("prompt"))
    if isinstance(prompt, list):
        turns = [m for m in prompt if isinstance(m, dict) and m.get("role") == "user"]
        prompt = turns[0].get("content") if turns else ""
        if isinstance(prompt, list):
            prompt = "\n".join(str(part.get("text", "")) for part in prompt if isinstance(part, dict))
    if not isinstance(prompt, str):
        why = "a hash-only ledger keeps none" if "answer_hash" in record else "needed is 'prompt' or 'messages'"
        raise OutputsInvalid(f"{where}: no prompt in it; {why}", hint="pass a ledger, answers or chat logs")
    return "" if any("\ud800" <= character <= "\udfff" for character in prompt) else prompt


def _records(traffic: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if is_ledger(traffic):
        name = shown(traffic)
        yield from ((f"{name}, record {record.seq}", asdict(record)) for record in read_ledger(traffic))
        return
    try:
        with Path(traffic).open("rb") as stream:
            for number, line in enumerate(stream, 1):
                where = f"{traffic}, line {number}"
                if line.strip():
                    yield where, _record(line, where)
    except OSError as error:
        raise OutputsInvalid(f"{traffic} cannot be read: {error.strerror}", hint="pass a file of traffic") from None


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise OutputsInvalid(f"{where}: not UTF-8") from None
    except (ValueError, RecursionError):
        raise OutputsInvalid(f"{where}: not a JSON object", hint="traffic is JSON Lines") from None
    if not isinstance(record, dict):
        raise OutputsInvalid(f"{where}: needed a JSON object, found {type(record).__name__}")
    return record


def _order(seed: int, text: str) -> str:
    return hashlib.sha256(f"wmark-prompts|{seed}|{text}".encode()).hexdigest()


def _said(tally: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in tally.items())
