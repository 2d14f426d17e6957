"""Corpora beyond memory and beyond one machine: read in blocks, each cell once over all of them, judged as a stream.

`corpus` cuts an input into blocks; `blocks` reads one (the map); `once` finds each cell's first place (the reduce);
`streamed` is what was read; `engines` say where the work is done. The result is that of `observe`, to the bit.
"""

from watermark.scale.corpus import Addressed
from watermark.scale.run import Scale, gathered, score

__all__ = ["Addressed", "Scale", "gathered", "score"]
