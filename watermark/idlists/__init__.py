"""Lists of token ids in JSON Lines, lifted out before the rest of a line is parsed.

Python's json makes an object of every number, which costs more than all else that is done with a token id. A list that
stands under a name of ours is read into an array instead, by a strict reading of JSON's grammar; of a line in which
anything is unusual nothing is lifted, and json says what is wrong with it.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from watermark import prf

_LIST = re.compile(rb'"((?:prompt_)?token_ids)"[ \t]*:[ \t]*(?=\[)')
_NAME, _BEFORE = b'token_ids"', len(b'"prompt_')
_SHORT = 256  # bytes of a line in which there is nothing to win
_MANY = 1 << 20  # bytes of such lines from which on compiled passes are worth their start


@dataclass
class Lifting:
    """Parses lines, and remembers how many bytes. held: stands for a list that was lifted; no line can hold it."""

    held: str = ""
    seen: int = 0
    compiled: bool = False

    def loads(self, line: bytes) -> Any:
        """What `json.loads(line.decode("utf-8-sig"))` gives and raises, but that lists of ids from 0 to 2^32 - 1 under
        "token_ids" and "prompt_token_ids" of the outermost object may be arrays (n,) uint32."""
        if len(line) >= _SHORT and _NAME in line:
            if self.seen < _MANY:
                self.seen += len(line)
                self.compiled = self.seen >= _MANY and prf.backend() == "numba"
            found = self._lifted(line) if self.compiled else None
            if found is not None:
                return found
        return json.loads(line.decode("utf-8-sig"))

    def _lifted(self, line: bytes) -> dict[str, Any] | None:
        """The object of a line without its lists, then with them; None if that may not be what json makes of it."""
        from watermark.idlists.compiled import ids_at

        self.held = self.held or secrets.token_hex(16)
        lists, parts, done = {}, [], 0
        at = line.find(_NAME)
        while at >= 0:
            quote = line.rfind(b'"', max(done, at - _BEFORE), at)
            place = _LIST.match(line, quote) if quote > 0 and line[quote - 1] != 0x5C else None
            ids, end = ids_at(line, place.end()) if place else (None, 0)
            if place is None or ids is None or place[1] in lists:
                return None
            lists[place[1]] = ids
            parts += [line[done : place.end()], b'"%b"' % self.held.encode()]
            at, done = line.find(_NAME, end), end
        try:
            found = json.loads(b"".join([*parts, line[done:]]).decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None
        named = {name.decode(): ids for name, ids in lists.items()}
        if not isinstance(found, dict) or any(found.get(name) != self.held for name in named):
            return None
        return found | named


LIFTING = Lifting()
