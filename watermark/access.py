"""How a suspect is read, by what there is to read: one path from each level of access to the same observations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from watermark.errors import OutputsInvalid, SuspectUnusable
from watermark.observe import Observations, observe_readings
from watermark.schemes import summable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from watermark.embed.answers import Model
    from watermark.ledger.filters import WindowFilter
    from watermark.mark import Watermark
    from watermark.observe import Reading, Stage
    from watermark.outputs import Output
    from watermark.scale.streamed import Streamed
    from watermark.tokenizer import Tokenizer

    Say = Callable[[str, int], None]
    Counts = tuple[NDArray[np.uint64], NDArray[np.int64]]


@dataclass(frozen=True)
class Request:
    """What to read and by which mark. served, often: windows of a ledger, and how often windows occur."""

    source: Iterable[Output]
    mark: Watermark
    tokenizer: Tokenizer | None
    served: NDArray[np.uint64] | WindowFilter | None = None
    often: Counts | None = None


@dataclass(frozen=True)
class Found:
    """Observations of the suspect, the same in stages for the e-process, and of each control by its name.

    stages: of what is read from a model; those of text follow from its votes. null: the votes' totals under a number of
    decoy keys, (m, 1), where they are had in another way than by asking the mark for all cells at once.
    """

    seen: Observations | Streamed
    stages: Iterator[Stage] | None = None
    controls: Mapping[str, Observations] = field(default_factory=dict)
    null: Callable[[int, Say], NDArray[np.int64]] | None = None

    @property
    def in_memory(self) -> Observations:
        """The suspect's observations, where their cells are at hand: always, but for the text of a work folder."""
        if not isinstance(self.seen, Observations):
            raise TypeError("these cells are in a work folder, not in memory")
        return self.seen


def read(
    request: Request,
    access: str,
    *,
    suspect: str | Path | Model | None,
    reference: str | Path | Model | None,
    controls: Mapping[str, str | Path | Model],
    say: Say,
) -> Found:
    """Reads log-probabilities or samples. access: one of detect's names, other than "text".

    Raises OutputsInvalid without a tokenizer, SuspectUnusable where a model or an answer gives nothing to read.
    """
    from watermark.probe.reading import read_logprobs, read_models, read_texts

    tokenizer = request.tokenizer
    if tokenizer is None:
        raise OutputsInvalid(
            f"reading {access} needs the mark's tokenizer", hint="pass the teacher's model folder as the tokenizer"
        )
    request.mark.check_tokenizer(tokenizer)
    if not summable(request.mark.scheme):
        raise SuspectUnusable(
            f"marks of {request.mark.scheme.name} are read from text alone: its keyed function takes different windows "
            "for one, so that weights of single cells would not be independent",
            hint="leave out --suspect, --logprobs, --samples and --reference",
        )
    beside = None if reference is None else _loaded(reference)
    if access == "logits":
        assert suspect is not None
        models = [_loaded(model) for model in (suspect, *controls.values())]
        rows = list(_counted(read_models(request.source, models, request.mark, tokenizer, reference=beside), say))
        seen, stages = _observed(request, (row[0] for row in rows), say)
        beheld = {
            name: _beheld(name, request, [row[number] for row in rows], say) for number, name in enumerate(controls, 1)
        }
        return Found(seen, stages, beheld)
    if access == "log-probabilities":
        readings = read_logprobs(request.source, request.mark, tokenizer, reference=beside)
    else:
        readings = read_texts(request.source, request.mark, tokenizer, reference=beside)
    seen, stages = _observed(request, readings, say)
    return Found(seen, stages)


def _observed(request: Request, readings: Iterable[Reading], say: Say) -> tuple[Observations, Iterator[Stage]]:
    return observe_readings(
        readings,
        request.mark,
        tokenizer=request.tokenizer,
        served=request.served,
        often=request.often,
        progress=partial(say, "answers read"),
    )


def _beheld(name: str, request: Request, readings: list[Reading], say: Say) -> Observations:
    """A control's observations; what is wrong with it is said under its name."""
    try:
        return _observed(request, readings, say)[0]
    except SuspectUnusable as error:
        raise SuspectUnusable(
            f"control {name!r}, in the suspect's place: {error}",
            hint="a control is another model than the reference: a student of unmarked answers, or an unrelated one",
        ) from None


def _counted(rows: Iterable[tuple[Reading, ...]], say: Say) -> Iterator[tuple[Reading, ...]]:
    for number, row in enumerate(rows, 1):
        say("texts put before the models", number)
        yield row


def _loaded(model: str | Path | Model) -> Model:
    from watermark.embed.answers import Model

    return model if isinstance(model, Model) else Model.load(model)
