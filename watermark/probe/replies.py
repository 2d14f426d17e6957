"""A response body of an OpenAI-compatible server, read with suspicion: chat or completions, one logprobs form.

Completions say log-probabilities in columns; here they become the chat form, one entry a token:
{"token", "logprob", "bytes"?, "top_logprobs": [{"token", "logprob", "bytes"?}, …]}, likeliest first.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeGuard

from watermark.probe.question import Reply

Api = Literal["chat", "completions"]
IMPOSSIBLE = -9999.0  # what OpenAI writes for a probability of zero


class BadReply(Exception):
    """A body that is no answer, in words. Asking again may help."""


def parse(body: bytes, *, api: Api) -> Reply:
    """The first choice of a response body. Raises BadReply saying what is wrong with it."""
    found = _object(body)
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadReply("the response holds no choices")
    choice = choices[0]
    text, mended = _mended(_text(choice, api))
    return Reply(
        text=text,
        mended=mended,
        finish_reason=_name(choice.get("finish_reason")),
        model=_name(found.get("model")),
        fingerprint=_name(found.get("system_fingerprint")),
        usage=_usage(found.get("usage")),
        logprobs=_logprobs(choice.get("logprobs")),
    )


def error_text(body: bytes) -> tuple[str, str]:
    """(message, code) of an error body; the message is the body's start if it is not in OpenAI's form."""
    try:
        found = _object(body)
    except BadReply:
        return body[:500].decode("utf-8", "replace"), ""
    error = found.get("error", found.get("detail", found.get("message", found)))
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or ""
        return str(error.get("message", error)), str(code)
    return error if isinstance(error, str) else json.dumps(error), ""


def model_names(body: bytes) -> list[str]:
    """The ids that GET /models lists. Raises BadReply."""
    listed = _object(body).get("data")
    if not isinstance(listed, list):
        raise BadReply("the list of models holds no data")
    return [str(entry["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadReply(f"the response is not UTF-8 (byte 0x{body[error.start]:02x} at {error.start})") from None
    except (ValueError, RecursionError):
        raise BadReply(f"the response is not JSON, or was cut short ({len(body):,} bytes)") from None
    if not isinstance(found, dict):
        raise BadReply("the response is no JSON object")
    return found


def _text(choice: dict[str, Any], api: Api) -> str:
    if api == "completions":
        text = choice.get("text")
    else:
        message = choice.get("message")
        if not isinstance(message, dict):
            raise BadReply("the response's choice holds no message")
        text = message.get("content")
        if isinstance(text, list):
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if text is None:
        return ""
    if not isinstance(text, str):
        raise BadReply(f"the answer should be text, found {type(text).__name__}")
    return text


def _mended(text: str) -> tuple[str, bool]:
    """Halves of surrogate pairs cannot be stored as UTF-8; they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), True
    return text, False


def _name(value: Any) -> str | None:
    return _mended(value)[0][:200] if isinstance(value, str) else None


def _usage(value: Any) -> dict[str, int] | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if not _is_count(completion):
        return None
    return {"prompt": prompt if _is_count(prompt) else 0, "completion": completion}


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _logprobs(value: Any) -> list[dict[str, Any]] | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        return [_entry(entry, top=True) for entry in value["content"]]
    if isinstance(value.get("tokens"), list):
        return _from_columns(value)
    return None


def _entry(value: Any, *, top: bool) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("token"), str):
        raise BadReply("a log-probability without its token")
    entry = _token(value["token"]) | {"logprob": _logprob(value.get("logprob"))}
    if _are_bytes(value.get("bytes")):
        entry["bytes"] = value["bytes"]
    if top:
        entry["top_logprobs"] = _likeliest([_entry(e, top=False) for e in value.get("top_logprobs") or []])
    return entry


def _from_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    tokens, single, tops = value["tokens"], value.get("token_logprobs"), value.get("top_logprobs")
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    if not isinstance(single, list) or not len(tokens) == len(single) == len(tops):
        raise BadReply("the columns of log-probabilities have different lengths")
    entries = []
    for token, logprob, top in zip(tokens, single, tops, strict=True):
        if not isinstance(token, str):
            raise BadReply("a log-probability without its token")
        pairs = top.items() if isinstance(top, dict) else ()
        listed = [_token(name) | {"logprob": _logprob(theirs)} for name, theirs in pairs]
        entries.append(_token(token) | {"logprob": _logprob(logprob), "top_logprobs": _likeliest(listed)})
    return entries


def _token(text: str) -> dict[str, Any]:
    return {"token": _mended(text)[0]}


def _logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 0.01:  # not: NaN compares false
        raise BadReply(f"a log-probability that cannot be one ({str(value)[:20]})")
    return float(min(max(value, IMPOSSIBLE), 0))


def _likeliest(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: -entry["logprob"])


def _are_bytes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_count(byte) and byte < 256 for byte in value)
