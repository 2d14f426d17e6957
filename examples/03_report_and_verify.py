"""From evidence to a page a stranger can check: report, verify, and what an edited byte does."""

from pathlib import Path
from tempfile import mkdtemp

from watermark import GreenList, Tokenizer, Watermark, WatermarkError, detect, render, verify
from watermark.embed.answers import Model, Sampling, write_answers
from watermark.prompts import Prompt

folder = Path(mkdtemp())
tokenizer = Tokenizer.load("demo")
mark = Watermark.generate(GreenList(), tokenizer=tokenizer)
prompts = [Prompt(str(n), t, ({"role": "user", "content": t},)) for n, t in enumerate(["A fox.", "A bell."] * 6)]
outputs = folder / "outputs.jsonl"
write_answers(Model.load("demo"), prompts, outputs, mark=mark, sampling=Sampling(max_new_tokens=60))

evidence = detect(outputs, mark, tokenizer=tokenizer)
evidence.save(folder / "evidence.json")
render(evidence, folder / "report.html")
for check in verify(folder / "evidence.json", outputs=outputs, mark=mark, tokenizer=tokenizer):
    print(f"{check.name}: {check.detail}")

outputs.write_text(outputs.read_text("utf-8").replace("a", "o", 1), "utf-8")
try:
    verify(folder / "evidence.json", outputs=outputs, mark=mark, tokenizer=tokenizer)
except WatermarkError as error:
    print("refused:", str(error).replace(str(folder), ""))
