"""Score marks around a torch module: `MarkedModule(model, mark)` answers as the model does, marked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch

from watermark.embed.calls import ScoreMark, marked
from watermark.errors import EmbeddingRefused, OutputsInvalid

Answers = Literal["probabilities", "logits", "values", "embeddings"]


class MarkedModule(torch.nn.Module):
    """A module whose answers are marked, without gradients: the outputs are detached.

    answers: what `model` returns, (n, channels) or (n,). "logits" are made probabilities (softmax over two or more
    columns, a sigmoid for one), marked, and returned as logits again: log-probabilities, shifted so that each row keeps
    its logsumexp; one whose probability does not move keeps its logit. inputs: picks the rows that
    the mark's basis knows from the positional arguments: the first of them by default, under a mark of embeddings the
    clean embeddings. The mark is no parameter: it is
    in no state_dict, and neither pickle nor a deep copy takes it along; attach it again.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        mark: ScoreMark,
        *,
        answers: Answers = "probabilities",
        inputs: Callable[[tuple[Any, ...]], Any] | None = None,
    ) -> None:
        super().__init__()
        if answers not in ("probabilities", "logits", "values", "embeddings"):
            raise ValueError(f"answers must be probabilities, logits, values or embeddings, found {answers!r}")
        self.model, self.answers, self.inputs = model, answers, inputs
        self._mark: ScoreMark | None = None
        self.attach(mark)

    def attach(self, mark: ScoreMark) -> Self:
        """Sets the mark. Raises EmbeddingRefused if it is for other answers than the module's."""
        wanted = "probabilities" if self.answers == "logits" else self.answers
        if mark.scheme.output != wanted:
            raise EmbeddingRefused(f"the mark is for {mark.scheme.output}, the module answers {self.answers}")
        self._mark = mark
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        if self._mark is None:
            raise EmbeddingRefused(
                "this module was copied or unpickled, and its mark stayed behind",
                hint="attach(mark) before it answers",
            )
        found = self.model(*args, **options)
        if not isinstance(found, torch.Tensor):
            raise OutputsInvalid(f"the module answers {type(found).__name__}, needed is a tensor of {self.answers}")
        rows = self._rows(args, found)
        if isinstance(rows, torch.Tensor) and rows.is_floating_point():
            rows = rows.double()
        if self.answers == "logits":
            return _marked_logits(found.detach(), rows, self._mark)
        answers: torch.Tensor = marked(found, rows, self._mark)
        return answers

    def _rows(self, args: tuple[Any, ...], found: torch.Tensor) -> Any:
        if self.inputs is not None:
            return self.inputs(args)
        return found if self.answers == "embeddings" else args[0]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mark": None}


def _marked_logits(logits: torch.Tensor, rows: Any, mark: ScoreMark) -> torch.Tensor:
    wide = logits.double()
    if logits.ndim == 2 and logits.shape[1] > 1:
        clean = torch.softmax(wide, dim=1)
        moved = torch.from_numpy(mark.tilt(clean.cpu().numpy(), rows)).to(wide.device)
        found = _log(moved) + torch.logsumexp(wide, dim=1, keepdim=True)
        found = torch.where(moved == clean, logits, found.to(logits.dtype))
        kept = found.argmax(dim=1) == logits.argmax(dim=1)
        return torch.where(kept[:, None], found, logits)
    clean = torch.sigmoid(wide).reshape(-1)
    moved = torch.from_numpy(mark.tilt(clean.cpu().numpy(), rows)).to(wide.device)
    found = torch.where(moved == clean, logits.reshape(-1), (_log(moved) - _log(1 - moved)).to(logits.dtype))
    found = found.reshape(logits.shape)
    return torch.where((found > 0) == (logits > 0), found, logits)


def _log(probabilities: torch.Tensor) -> torch.Tensor:
    return torch.log(torch.clamp(probabilities, min=torch.finfo(torch.float64).tiny))
