"""Cases to bundle, made through the real path: answers with their query log, a plan before them, evidence after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from watermark.bundle import note_test
from watermark.detect import detect
from watermark.evidence import Evidence
from watermark.files import canonical_json
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
    made = resealed(evidence, created=FOUND)
    made.save(folder / "evidence.json")
    note_test(folder / "answers.jsonl", made)
    return Case(folder, mark, tokenizer)


def _planned(mark: Watermark, folder: Path, decoys: int, made: str) -> None:
    from dataclasses import replace

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


def resealed(evidence: Evidence, **changed: Any) -> Evidence:
    from dataclasses import replace

    return replace(evidence, **changed)
