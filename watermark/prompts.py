"""Prompts to ask a model: JSON Lines `{id?, prompt}` or a text file with one prompt a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watermark.errors import OutputsInvalid


@dataclass(frozen=True)
class Prompt:
    """One prompt. messages: a chat's turns, or the prompt as a single user turn."""

    id: str
    text: str
    messages: tuple[dict[str, str], ...]


def read_prompts(path: str | Path) -> list[Prompt]:
    """All prompts of a file, ids unique. Raises OutputsInvalid naming the line that is wrong."""
    path = Path(path)
    try:
        lines = [line.rstrip("\r") for line in path.read_text("utf-8-sig").split("\n")]
    except OSError as error:
        raise OutputsInvalid(f"{path} cannot be read: {error.strerror}", hint="pass a file of prompts") from None
    except UnicodeDecodeError:
        raise OutputsInvalid(f"{path} is not UTF-8 text", hint="pass JSON Lines or plain text") from None
    read = _text_prompt if path.suffix == ".txt" else _json_prompt
    prompts = [read(line, f"{path}, line {n}", str(n - 1)) for n, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise OutputsInvalid(f"{path} holds no prompts", hint='each line should be {"id": …, "prompt": …}')
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise OutputsInvalid(f"{path}: the id {prompt.id!r} stands twice; ids tell answers apart")
        seen.add(prompt.id)
    return prompts


def _text_prompt(line: str, where: str, index: str) -> Prompt:
    return Prompt(index, line, ({"role": "user", "content": line},))


def _json_prompt(line: str, where: str, index: str) -> Prompt:
    try:
        found = json.loads(line)
    except ValueError:
        raise OutputsInvalid(f"{where}: not a JSON object", hint="name a plain text file .txt") from None
    if not isinstance(found, dict) or "prompt" not in found:
        raise OutputsInvalid(f"{where}: no field 'prompt'")
    messages = _messages(found["prompt"], where)
    text = "\n".join(message["content"] for message in messages)
    return Prompt(str(found.get("id", index)), text, messages)


def _messages(prompt: Any, where: str) -> tuple[dict[str, str], ...]:
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    if isinstance(prompt, list) and prompt and all(_is_message(m) for m in prompt):
        return tuple({"role": m["role"], "content": m["content"]} for m in prompt)
    raise OutputsInvalid(f"{where}: 'prompt' should be a string or a list of {{role, content}} messages")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
