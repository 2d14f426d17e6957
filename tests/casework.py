"""Cases to bundle, made through the real path: answers with their query log, a plan before them, evidence after.

Also what is made beside a case (keys that sign, published commitments), and what attackers do to a bundle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from watermark.bundle import custody, note_test, verify_bundle
from watermark.bundle import make as making
from watermark.bundle import standalone as alone
from watermark.detect import detect
from watermark.errors import ReportInvalid
from watermark.files import canonical_json
from watermark.keyring.commitments import Commitments, Committed
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.plan import before_asking, plan
from watermark.probe.answers import to_answer
from watermark.probe.log import QueryLog, answer_digest, log_path
from watermark.probe.question import Attempt, Draw, Question, Reply
from watermark.prompts import Prompt
from watermark.schemes import GreenList, Scheme
from watermark.tokenizer import Tokenizer

MADE, FIRST = "2026-01-05T09:00:00+00:00", datetime(2026, 3, 2, 10, 0, tzinfo=UTC).timestamp()
PLANNED, FOUND = "2026-03-01T12:00:00+00:00", "2026-03-03T08:00:00+00:00"
WORDS = 40


@dataclass(frozen=True)
class Case:
    """Files of one case: ours.wmark, ours.profile.json, plan.json, answers.jsonl with its log, evidence.json."""

    folder: Path
    mark: Watermark
    tokenizer: Tokenizer

    def file(self, name: str) -> Path:
        return self.folder / name

    def given(self) -> dict[str, Any]:
        """What `bundle` is given."""
        return {
            "answers": self.file("answers.jsonl"),
            "plan": self.file("plan.json"),
            "profile": self.file("ours.profile.json"),
            "tokenizer": self.tokenizer,
        }


def word_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level tokenizer of forty short words, two special tokens and all single bytes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges = []
    for number in range(WORDS):
        pieces = ["Ġ", *"bcdfghjklm"[number % 10], *"aeio"[number // 10]]
        for end in (2, 3):
            left, right = "".join(pieces[: end - 1]), pieces[end - 1]
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|user|>"])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def build(
    folder: Path,
    *,
    answers: int = 12,
    tokens: int = 40,
    decoys: int = 99,
    planned: bool = True,
    key: bytes = b"a case",
    said: str | None = None,
    plan_made: str = PLANNED,
    mark_made: str = MADE,
    exploratory: bool = False,
    scheme: Scheme | None = None,
) -> Case:
    """A case on a small tokenizer. said: text that every answer begins with. scheme: by default a green list."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = word_tokenizer(folder / "teacher")
    binding = Binding(tokenizer.digest, tokenizer.size, tokenizer.special_ids, tokenizer.source)
    mark = Watermark(scheme or GreenList(window=1, gamma=0.25), next(iter(decoy_keys(key, 1))), binding, mark_made)
    mark.save(folder / "ours.wmark")
    (folder / "ours.profile.json").write_text(json.dumps(mark.profile()))
    texts = [f"say {number} ba ca" for number in range(answers)]
    prompts = [Prompt(f"q{n}", text, ({"role": "user", "content": text},)) for n, text in enumerate(texts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"id": p.id, "prompt": p.text}) + "\n" for p in prompts))
    if planned:
        _planned(mark, folder, decoys, plan_made)
    texts = marked(mark, tokenizer, answers, tokens)
    named = folder / "plan.json" if planned and not exploratory else None
    ask(folder / "answers.jsonl", prompts, [(said or "") + text for text in texts], plan=named)
    evidence = detect(
        folder / "answers.jsonl",
        mark,
        tokenizer=tokenizer,
        decoys=decoys,
        plan=folder / "plan.json" if planned else None,
        exploratory=exploratory,
    )
    made = replace(evidence, created=FOUND)
    made.save(folder / "evidence.json")
    note_test(folder / "answers.jsonl", made)
    return Case(folder, mark, tokenizer)


def _planned(mark: Watermark, folder: Path, decoys: int, made: str) -> None:
    found = plan(
        mark, access="text", prompts=folder / "prompts.jsonl", decoys=decoys, tokens_per_answer=20, slope=9.0, share=1.0
    )
    replace(found, created=made).save(folder / "plan.json")


def marked(mark: Watermark, tokenizer: Tokenizer, rows: int, tokens: int) -> list[str]:
    """Words drawn among four, the green ones seven times as often; of graded scores the higher ones more often."""
    rng, words = np.random.default_rng(4), _words(tokenizer)
    made = []
    for _ in range(rows):
        ids = [int(rng.choice(words))]
        for _ in range(tokens):
            some = rng.choice(words, 4)
            scores = np.asarray(mark.score(np.array([ids[-1:]] * 4), some), dtype=float)
            weight = 7.0 ** (scores / max(1.0, 0.3 * mark.scheme.null.highest))
            ids.append(int(rng.choice(some, p=weight / weight.sum())))
        made.append(tokenizer.texts([ids])[0])
    return made


def _words(tokenizer: Tokenizer) -> np.ndarray:
    spelled = tokenizer.spellings()
    return np.array([i for i, found in enumerate(spelled) if found is not None and len(found) == 3])


def ask(path: Path, prompts: list[Prompt], texts: list[str], first: float = FIRST, plan: Path | None = None) -> None:
    """Answers and their log as `wmark probe` writes them. plan: that which the log's first line names."""
    settings: dict[str, Any] = {"suspect": {"model": "suspect"}, "run": "0123456789abcdef", "created": MADE}
    if plan is not None:
        settings["plan"] = before_asking(plan, prompts=prompts, output=path, now=datetime.fromtimestamp(first, UTC))
    log = QueryLog(log_path(path), settings)
    with path.open("wb") as stream:
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            sent = first + 2 * number
            reply = Reply(text, finish_reason="stop", model="suspect")
            question = Question(prompt.id, number, prompt, Draw())
            attempt = Attempt(question, 1, sent, sent + 1, "answered", 200, None, reply, "0" * 64, 40)
            answer = to_answer(attempt)
            log.request(attempt, answer_sha256=answer_digest(answer))
            stream.write(canonical_json(answer) + b"\n")
    log.close()


# Beside a case.


def signing_key(path: Path, *algorithm: str) -> Path:
    """A private key in PEM, by default Ed25519, with its public key beside it (`public_of`)."""
    openssl("genpkey", "-algorithm", *(algorithm or ["ed25519"]), "-out", path)
    path.chmod(0o600)
    openssl("pkey", "-in", path, "-pubout", "-out", public_of(path))
    return path


def public_of(signer: Path) -> Path:
    return signer.with_suffix(".pub")


def certificate(key: Path, target: Path) -> None:
    """A certificate of a key, in the name of an expert."""
    openssl("req", "-new", "-x509", "-key", key, "-subj", "/CN=An Expert", "-days", "30", "-out", target)


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def published(case: Case, folder: Path, count: int, *, created: str = MADE, own: bool = True) -> Path:
    """Commitments of a set of `count` keys, the case's own last."""
    keys = [*decoy_keys(b"others", count - own), *([case.mark.key] if own else [])]
    profile = case.mark.profile()
    mark = {name: profile[name] for name in ("scheme", "prf", "tokenizer")}
    listed = [Committed(f"epoch-{n}", key.kid, key.commitment, created, 0, None, False) for n, key in enumerate(keys)]
    for n, key in enumerate(keys):
        listed[n] = replace(listed[n], kid=key.kid if key is case.mark.key else f"{n:016x}")
    made = Commitments.of("0123456789abcdef", mark, listed)
    (folder / "commitments.json").unlink(missing_ok=True)
    made.save(folder / "commitments.json")
    return folder / "commitments.json"


def check_law(ours: alone.Sum, law: Any, total: int, alternative: str) -> None:
    """The stranger's law of a weighted sum gives what the package's gives: moments, tail, bound and e-value."""
    assert (ours.mean, ours.sd) == pytest.approx((law.mean, law.sd))
    tail = law.tail(total, alternative=alternative)
    assert tail.method == "exact lattice"
    assert ours.both(total, alternative, exact=True) == pytest.approx(tail.log10_p, rel=1e-8, abs=1e-10)
    bound = law.log10_chernoff(total, alternative=alternative)
    assert ours.both(total, alternative, exact=False) == pytest.approx(bound, rel=1e-7, abs=1e-9)
    evalue = float(law.log10_evalue(total, alternative=alternative))
    assert ours.log10_evalue(total, alternative) == pytest.approx(evalue, rel=1e-9, abs=1e-10)


# What attackers do to a bundle.


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """One JSON file, changed in place."""
    found = json.loads(path.read_bytes())
    change(found)
    path.write_bytes(json.dumps(found).encode())


def rechain(path: Path, entries: list[dict]) -> None:
    """The lines of a chained file, each hash made anew."""
    previous, made = "", []
    for number, entry in enumerate(entries):
        body = {name: value for name, value in entry.items() if name != "hash"}
        body |= {"prev": previous, "seq": number - 1} if number else {}
        previous = alone.sha256(alone.canonical(body))
        made.append(alone.canonical(body | {"hash": previous}) + b"\n")
    path.write_bytes(b"".join(made))


def resealed(bag: Path) -> Path:
    """What an attacker of the second kind does: new manifests, a new record of custody, no signature."""
    index = json.loads((bag / "data/case.json").read_bytes())
    found = json.loads((bag / "data/evidence.json").read_bytes())
    for name in ("attestation.dsse.json", "attestation.tsr"):
        (bag / name).unlink(missing_ok=True)
    shutil.rmtree(bag / "signers", ignore_errors=True)
    events = [event for event in events_of(bag) if event["event"] in ("plan", "probe", "detect")]
    (bag / "custody.jsonl").unlink()
    making._seal(bag, found, index, events)
    return bag


def redacted_anew(made: Path) -> Path:
    """The same of a redacted copy that was changed: manifests as they now are, and custody tells of these."""
    index = json.loads((made / "data/case.json").read_bytes())
    found = json.loads((made / "data/evidence.json").read_bytes())
    making._write_manifests(made, found, index["created"])
    events = events_of(made)
    events[-1]["tagmanifest"] = alone.sha256_of(made / "tagmanifest-sha256.txt")
    (made / "custody.jsonl").unlink()
    custody.begin(made / "custody.jsonl", index["case"], events)
    return made


def events_of(bag: Path) -> list[dict]:
    """The events that custody tells of, without their places in its chain."""
    lines = custody.read(bag / "custody.jsonl")[1:]
    return [{name: value for name, value in line.items() if name not in ("hash", "prev", "seq")} for line in lines]


def refused(bag: Path, words: str, **options) -> None:
    """`verify_bundle`, which asks the stranger's file too (`standalone.steps`), refuses it in these words."""
    with pytest.raises(ReportInvalid, match=words):
        verify_bundle(bag, **options)
