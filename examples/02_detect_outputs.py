"""Ask whether outputs depend on our key: here, text that carries the mark and text that does not."""

from pathlib import Path
from tempfile import mkdtemp

from watermark import GreenList, Tokenizer, Watermark, detect
from watermark.embed.answers import Model, Sampling, write_answers
from watermark.prompts import Prompt

folder = Path(mkdtemp())
tokenizer = Tokenizer.load("demo")
mark = Watermark.generate(GreenList(), tokenizer=tokenizer)
model = Model.load("demo")
asked = [f"Describe the harbour on day {n}." for n in range(12)]
prompts = [Prompt(str(n), text, ({"role": "user", "content": text},)) for n, text in enumerate(asked)]

for name, used in (("marked", mark), ("unmarked", None)):
    write_answers(model, prompts, folder / f"{name}.jsonl", mark=used, sampling=Sampling(max_new_tokens=60))
    evidence = detect(folder / f"{name}.jsonl", mark, tokenizer=tokenizer)
    print(f"{name}: {evidence.verdict}, log10 p = {evidence.log10_p:.1f}, {evidence.cells} cells")
