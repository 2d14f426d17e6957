"""Asks a running OpenAI-compatible server through both interfaces, with log-probabilities and without; prints a table.

    python benchmarks/probe_servers.py http://127.0.0.1:8000/v1 --model NAME

The server is started by hand; how, and what came of it, stands in docs/results/probe.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from watermark.errors import OutputsInvalid
from watermark.probe import Draw, Endpoint, Limits, ask, default_prompts, log_path, verify_log


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("address")
    options.add_argument("--model", required=True)
    options.add_argument("--prompts", type=int, default=20)
    options.add_argument("--max-new-tokens", type=int, default=48)
    options.add_argument("--concurrency", type=int, default=2)
    options.add_argument("--consistency", type=int, default=5)
    given = options.parse_args()
    print("| interface | log-probabilities | answers | requests | tokens | s | changed at T = 0 | what was said |")
    print("|---|---|---|---|---|---|---|---|")
    for api in ("chat", "completions"):
        for logprobs in (0, 5):
            print(row(given, api, logprobs), flush=True)


def row(given: argparse.Namespace, api: str, logprobs: int) -> str:
    """One run on a fresh file, as a row of the table."""
    suspect = Endpoint.open(given.address, model=given.model, api=api)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "answers.jsonl"
        try:
            done = ask(
                suspect,
                default_prompts(given.address)[: given.prompts],
                output,
                draw=Draw(given.max_new_tokens, seed=1, logprobs=logprobs),
                limits=Limits(given.concurrency),
                consistency=given.consistency,
            )
        except OutputsInvalid as error:
            return f"| {api} | {logprobs or 'none'} | 0 | – | – | {time.monotonic() - begun:.1f} | – | {error} |"
        verify_log(log_path(output), answers=output)
        tokens = tops(output)
    changed = f"{done.consistency['changed']} of {done.consistency['asked']}" if done.consistency else "–"
    return (
        f"| {api} | {logprobs or 'none'} | {done.answers} | {done.requests} | {done.tokens:,} "
        f"| {time.monotonic() - begun:.1f} | {changed} | {done.ended}, {done.cut} cut, {done.empty} empty{tokens} |"
    )


def tops(output: Path) -> str:
    """How many tokens came with log-probabilities, how many of them agree with the text, and how many alternatives."""
    answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    entries = [entry for answer in answers for entry in answer.get("logprobs", [])]
    if not entries:
        return ""
    whole = sum("".join(e["token"] for e in a["logprobs"]).strip() == a["text"].strip() for a in answers)
    counts = {len(entry["top_logprobs"]) for entry in entries}
    return f"; {len(entries):,} tokens with {min(counts)}–{max(counts)} alternatives, {whole} answers spelt by them"


if __name__ == "__main__":
    main()
