"""Cell: what one line of the study of scores is about, and its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One suspect and its evidence. change: what thief or suspect did, and how much; key: index of the owner's key.

    n: marked answers that the suspect learned; size, kind: of the basis; own: share of the two-tier key's energy that
    goes to single inputs.
    """

    group: str
    task: str
    student: str = ""
    n: int = 20_000
    epsilon: float = 0.02
    key: int = 0
    own: float = 0.0
    size: int = 200
    kind: str = "kernel"
    change: str = ""
    amount: float = 0.0
    probes: int = 20_000

    @property
    def name(self) -> str:
        parts = [self.student, f"n{self.n}", f"e{self.epsilon:g}"]
        parts += [f"own{self.own:g}"] if self.own else []
        parts += [f"b{self.size}{self.kind[:1]}"] if (self.size, self.kind) != (200, "kernel") else []
        parts += [f"{self.change}{self.amount:g}"] if self.change else []
        return f"{self.group}/{self.task}/" + "-".join([*parts, f"k{self.key}"])
