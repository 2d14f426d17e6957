"""Ask a suspect, then read its log-probabilities over what it said: many times the power of the text alone."""

from pathlib import Path
from tempfile import mkdtemp

from watermark import GreenList, Tokenizer, Watermark, detect, verify
from watermark.probe import Draw, Limits, ask, default_prompts, open_suspect

folder = Path(mkdtemp())
tokenizer = Tokenizer.load("demo")
mark = Watermark.generate(GreenList(window=1), tokenizer=tokenizer)

done = ask(open_suspect("demo"), default_prompts("demo")[:40], folder / "said.jsonl", draw=Draw(60), limits=Limits())
print(f"{done.answers} answers, {done.tokens} tokens")

evidence = detect(folder / "said.jsonl", mark, tokenizer=tokenizer, suspect="demo", cells=folder / "cells.npz")
for found in evidence.weighted.statistics:
    print(f"{found.name:<14} z {found.z:5.2f}   log10 p {found.log10_p:6.2f} ({found.tail})")
print(f"{evidence.verdict}; e-process log10 E = {evidence.anytime.log10_e:.2f}")
evidence.save(folder / "evidence.json")
print([check.name for check in verify(folder / "evidence.json", cells=folder / "cells.npz", mark=mark)])
