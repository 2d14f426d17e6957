"""Wrap a model's generate: three lines, and every answer carries the mark and is in the ledger."""

from pathlib import Path
from tempfile import mkdtemp

from transformers import AutoModelForCausalLM, AutoTokenizer

from watermark import Embedder, GreenList, Ledger, Tokenizer, Watermark, read_ledger
from watermark.tokenizer import demo_model

folder = Path(mkdtemp())
model = AutoModelForCausalLM.from_pretrained(demo_model())
tokenizer = AutoTokenizer.from_pretrained(demo_model())
mark = Watermark.generate(GreenList(), tokenizer=Tokenizer.wrap(tokenizer))
mark.save(folder / "ours.wmark")

with Ledger(folder / "ledger.jsonl") as ledger:
    embedder = Embedder(mark, ledger=ledger)
    generate = embedder.wrap(model.generate, tokenizer=tokenizer)

    chat = [{"role": "user", "content": "Tell a short story about a lantern."}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = generate(**ids, do_sample=True, max_new_tokens=80)

print(tokenizer.decode(answer[0], skip_special_tokens=True))
print(embedder.receipts[0])
print(len(list(read_ledger(folder / "ledger.jsonl"))), "record in the ledger")
