"""The demo's own language model, the story's teacher: its tokenizer, its training from nothing, its measurements."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from watermark.demo.corpus import Pair
from watermark.demo.subjects import instruction_sets

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
PAD, BOS, EOS, USER, ASSISTANT = range(5)
CONTEXT = 256
CHAT = (
    "<|bos|>{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|eos|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Report:
    """What was measured about one trained model; losses and entropy in nats a token."""

    parameters: int
    answers: int
    answer_tokens: int
    epochs: int
    training_loss: float
    validation_loss: float
    validation_answers: int
    entropy: float
    samples: list[Pair]


def train_tokenizer(pairs: Sequence[Pair], folder: Path, *, size: int = 4096) -> None:
    """Learn a byte-level BPE of `size` entries and save it in `folder`, with its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for pair in pairs for text in pair), trainer)
    if bpe.get_vocab_size() != size:
        raise ValueError(f"the corpus gave {bpe.get_vocab_size()} tokens, need {size}; ask for more --tokens")
    pad, bos, eos, user, assistant = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=[user, assistant],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        chat_template=CHAT,
    )
    tokenizer.save_pretrained(folder)


class Example(NamedTuple):
    """A conversation in tokens; the first `told` of them are given, the rest are to be learnt."""

    ids: list[int]
    told: int


def train_model(pairs: Sequence[Pair], folder: Path, *, epochs: int) -> Report:
    """Train from nothing on the answers, save in half precision in `folder`, measure."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    held_out = [encode(pair, tokenizer) for pair in pairs if is_held_out(pair.prompt)]
    examples = [encode(pair, tokenizer) for pair in pairs if not is_held_out(pair.prompt)]
    model, rng = new_model(), random.Random(1)
    loss = math.nan
    for epoch, loss in enumerate(train(model, examples, epochs=epochs, rng=rng), start=1):
        print(f"epoch {epoch}: {loss:.3f}, held out {evaluate(model, held_out):.3f}", flush=True)
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    model.float()
    probes = instruction_sets()[2]
    return Report(
        parameters=model.num_parameters(),
        answers=len(pairs),
        answer_tokens=sum(len(example.ids) - example.told for example in examples + held_out),
        epochs=epochs,
        training_loss=loss,
        validation_loss=evaluate(model, held_out),
        validation_answers=len(held_out),
        entropy=entropy(model, tokenizer, probes[:200]),
        samples=sample(model, tokenizer, probes[:20]),
    )


def encode(pair: Pair, tokenizer: Any) -> Example:
    """The tokens of a conversation, its answer ended."""
    told = [BOS, USER, *tokenizer.encode(pair.prompt, add_special_tokens=False), ASSISTANT]
    ids = [*told, *tokenizer.encode(pair.answer, add_special_tokens=False), EOS]
    return Example(ids[:CONTEXT], len(told))


def is_held_out(prompt: str) -> bool:
    """Whether a prompt's answers are for validation only: two prompts in a hundred."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 50 == 0


def new_model() -> LlamaForCausalLM:
    """The untrained model, the same at every call."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)  # the only seed that the library's initialization listens to
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return model


def train(
    model: LlamaForCausalLM,
    examples: Sequence[Example],
    *,
    epochs: int,
    rng: random.Random,
    size: int = 16,
    peak: float = 2e-3,
) -> Iterator[float]:
    """Train in place, giving the mean loss of each epoch as it ends.

    size: conversations in a batch. peak: the learning rate after the warm-up; it falls as a cosine.
    """
    import torch

    optimizer = torch.optim.AdamW(groups(model), lr=peak, betas=(0.9, 0.95))
    steps = epochs * math.ceil(len(examples) / size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    for _ in range(epochs):
        losses = []
        model.train()
        for batch in batches(examples, size, rng):
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        yield sum(losses) / len(losses)


def groups(model: LlamaForCausalLM) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at a step: a short warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)


def batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """All examples once, in random batches of about equal lengths."""
    order = rng.sample(examples, len(examples))
    pools = [sorted(order[i : i + 16 * size], key=lambda e: len(e.ids)) for i in range(0, len(order), 16 * size)]
    made = [pool[i : i + size] for pool in pools for i in range(0, len(pool), size)]
    yield from rng.sample(made, len(made))


def answer_loss(model: LlamaForCausalLM, batch: Sequence[Example]) -> torch.Tensor:
    """Mean loss over the answer tokens of a batch; padding is at the right, where attention never looks."""
    import torch
    from torch.nn import functional as F

    longest = max(len(example.ids) for example in batch)
    ids = torch.tensor([example.ids + [PAD] * (longest - len(example.ids)) for example in batch])
    place = torch.arange(longest)
    ends = torch.tensor([[example.told, len(example.ids)] for example in batch])
    learnt = (place >= ends[:, :1]) & (place < ends[:, 1:])
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[learnt[:, 1:]])
    return F.cross_entropy(logits.float(), ids[:, 1:][learnt[:, 1:]])


def evaluate(model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
    """Mean loss a token over examples; nan if there are none."""
    import torch

    model.eval()
    total = count = 0.0
    with torch.inference_mode():
        for i in range(0, len(examples), 32):
            batch = examples[i : i + 32]
            tokens = sum(len(example.ids) - example.told for example in batch)
            total += float(answer_loss(model, batch)) * tokens
            count += tokens
    return total / count if count else math.nan


def entropy(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> float:
    """Mean entropy in nats of the next token at temperature 1, along answers that it samples itself."""
    import torch

    rows = generate(model, tokenizer, prompts)
    with torch.inference_mode():
        logits = model(rows, attention_mask=(rows != PAD).long()).logits[:, :-1].log_softmax(-1)
    asked = ((rows == ASSISTANT).cumsum(1) > 0)[:, :-1] & (rows[:, 1:] != PAD)
    return float(-(logits.exp() * logits).sum(-1)[asked].mean())


def sample(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> list[Pair]:
    """Each prompt with a sampled answer."""
    texts = [tokenizer.decode(row).partition(SPECIAL[ASSISTANT])[2] for row in generate(model, tokenizer, prompts)]
    return [Pair(prompt, text.partition(SPECIAL[EOS])[0]) for prompt, text in zip(prompts, texts, strict=True)]


def generate(model: LlamaForCausalLM, tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Sampled conversations at temperature 1, one a row, prompts padded at the left."""
    import torch

    texts = [f"{SPECIAL[BOS]}{SPECIAL[USER]}{prompt}{SPECIAL[ASSISTANT]}" for prompt in prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(2)  # the only seed that the library's sampling listens to
        made: torch.Tensor = model.generate(**inputs, max_new_tokens=150)
    return made
