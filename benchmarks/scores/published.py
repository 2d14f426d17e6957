"""The published marks of scores, written from their papers, at the L-infinity cost of ours.

CosWM: Charette et al. 2022, arXiv 2203.02777. DRW: Zhao et al. 2022, arXiv 2210.03312. DAWN: Szyller et al. 2021,
arXiv 1906.00830. Naive: Pearson's correlation of the suspect's deviation with the mark, and its t-test.

CosWM and DRW have a ratio with a threshold in place of a p-value. Here each is judged by the rank of its own statistic
among decoy keys, the kindest exact test that it can have; beside it by the z of a matched filter on our residual.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measure import Bench, bench_of, evidence, single_inputs, the_basis, the_key, the_scheme
from numpy.typing import NDArray
from students import student
from tasks import Array

from watermark.keys import Key
from watermark.scores import Marker
from watermark.scoring.residual import channels_of, left_over

if TYPE_CHECKING:
    from cell import Cell

DECOYS = 400
TOP_FREQUENCY = 40.0  # cycles; the paper's grid ends there
_PAD, _BINS = 16, 4096


# ---------------------------------------------------------------- the marks


@dataclass(frozen=True)
class Cosine:
    """CosWM's key: a class, a frequency (radians over the projection's range) and a direction of the inputs.

    ranks: (257,) quantiles of the projection on reference inputs, so that it lies evenly in [0, 1].
    """

    target: int
    frequency: float
    direction: Array
    middle: Array
    spread: Array
    ranks: Array

    @classmethod
    def make(cls, reference: Array, frequency: float, target: int, rng: np.random.Generator) -> Cosine:
        middle, spread = reference.mean(axis=0), reference.std(axis=0) + 1e-9
        direction = rng.normal(size=reference.shape[1])
        direction /= np.linalg.norm(direction)
        along = (reference - middle) / spread @ direction
        return cls(target, frequency, direction, middle, spread, np.quantile(along, np.linspace(0, 1, 257)))

    def projection(self, x: Array) -> Array:
        """(n,) in [0, 1]."""
        along = (x - self.middle) / self.spread @ self.direction
        return np.asarray(np.interp(along, self.ranks, np.linspace(0, 1, len(self.ranks))))

    def wave(self, x: Array) -> Array:
        return np.asarray(np.cos(self.frequency * self.projection(x)))

    def mark(self, answers: Array, x: Array, epsilon: float) -> Array:
        """Equations 4 to 6: the target's score rises by cos, the others' by its opposite; then the row is divided."""
        return _waved(answers, np.full(len(x), self.target), self.wave(x), own_epsilon(epsilon))


def own_epsilon(epsilon: float) -> float:
    """Their epsilon e whose largest move, 2 e / (1 + 2 e), is ours."""
    return epsilon / (2 * (1 - epsilon))


def _waved(answers: Array, targets: NDArray[np.int_], wave: Array, e: float) -> Array:
    rows, others = np.arange(len(answers)), answers.shape[1] - 1
    found = answers + e * (1 - wave[:, None]) / others
    found[rows, targets] = answers[rows, targets] + e * (1 + wave)
    return np.asarray(found / (1 + 2 * e))


@dataclass(frozen=True)
class Hashed:
    """DRW's key: the wave runs on the argmax class, over half of the inputs that a second key keeps.

    The paper hashes a token's vector with the key; inputs here are rows, so the standardised row stands for it.
    """

    wave_key: Cosine
    keep_key: Cosine

    @classmethod
    def make(cls, reference: Array, frequency: float, rng: np.random.Generator) -> Hashed:
        return cls(Cosine.make(reference, frequency, 0, rng), Cosine.make(reference, frequency, 0, rng))

    def kept(self, x: Array) -> NDArray[np.bool_]:
        return np.asarray(self.keep_key.projection(x) < 0.5)

    def mark(self, answers: Array, x: Array, epsilon: float) -> Array:
        """Equations 3 and 4 on the kept half."""
        waved = _waved(answers, answers.argmax(axis=1), self.wave_key.wave(x), own_epsilon(epsilon))
        return np.where(self.kept(x)[:, None], waved, answers)


@dataclass(frozen=True)
class WrongLabels:
    """DAWN's key: an input whose HMAC falls below the rate is answered wrongly, the same way whenever it is asked.

    gap: only answers whose first two classes are nearer than that change places; 1 is DAWN as published.
    """

    key: bytes
    rate: float
    gap: float = 1.0

    def chosen(self, x: Array) -> NDArray[np.bool_]:
        """(n,): inputs that the key picks; 64 bits of HMAC-SHA-256 over the row's bytes."""
        found = [hmac.digest(self.key, row.tobytes(), "sha256")[:8] for row in np.ascontiguousarray(x)]
        return np.asarray(np.frombuffer(b"".join(found), dtype="<u8") < np.uint64(int(self.rate * (2**64 - 1))))

    def near(self, answers: Array) -> NDArray[np.bool_]:
        ordered = np.sort(answers, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2] <= self.gap)

    def mark(self, answers: Array, x: Array) -> Array:
        """The first two classes' probabilities change places."""
        rows = np.flatnonzero(self.chosen(x) & self.near(answers))
        order = np.argsort(answers, axis=1)
        found = answers.copy()
        found[rows, order[rows, -1]], found[rows, order[rows, -2]] = (
            answers[rows, order[rows, -2]],
            answers[rows, order[rows, -1]],
        )
        return found

    def log10_p(self, suspect: Array, answers: Array, x: Array) -> float:
        """Exact, on logged inputs: of the suspect's disagreements, those on keyed inputs are hypergeometric."""
        from scipy.stats import hypergeom

        near = self.near(answers)
        wrong = (suspect.argmax(axis=1) != answers.argmax(axis=1))[near]
        keyed = self.chosen(x)[near]
        if not keyed.any():
            return 0.0
        tail = hypergeom.logsf((wrong & keyed).sum() - 1, len(keyed), keyed.sum(), wrong.sum())
        return float(min(0.0, tail / np.log(10)))


# ---------------------------------------------------------------- the detectors


def periodogram(positions: Array, values: Array) -> tuple[Array, Array]:
    """Lomb's normalised periodogram (Press and Rybicki 1989) on a grid of 1/16 cycle up to 40 cycles.

    positions: (n,) in [0, 1]; values: (n,). Positions fall into 4,096 bins, a hundredth of the shortest wave. Returns
    frequencies in cycles, and the power at each.
    """
    bins = np.minimum((positions * _BINS).astype(int), _BINS - 1)
    centred = values - values.mean()
    length = _BINS * _PAD
    heights = np.fft.rfft(np.bincount(bins, centred, minlength=_BINS), length)
    counts = np.fft.rfft(np.bincount(bins, minlength=_BINS).astype(float), length)
    index = np.arange(1, int(TOP_FREQUENCY * _PAD) + 1)
    cosines, sines = heights.real[index], -heights.imag[index]
    twice_cos, twice_sin = counts.real[2 * index], -counts.imag[2 * index]
    turn = 0.5 * np.arctan2(twice_sin, twice_cos)
    along = np.cos(turn) * cosines + np.sin(turn) * sines
    across = np.cos(turn) * sines - np.sin(turn) * cosines
    double = np.cos(2 * turn) * twice_cos + np.sin(2 * turn) * twice_sin
    total, variance = len(values), centred.var() + 1e-300
    power = (along**2 / np.maximum((total + double) / 2, 1e-9) + across**2 / np.maximum((total - double) / 2, 1e-9)) / (
        2 * variance
    )
    return index / _PAD, np.asarray(power)


def signal_to_noise(positions: Array, values: Array, frequency: float) -> float:
    """Equation 9: mean power within half a width of the key's frequency, over the mean elsewhere."""
    cycles, power = periodogram(positions, values)
    near = np.abs(cycles - frequency / (2 * np.pi)) <= 0.6 / _PAD
    return float(power[near].mean() / power[~near].mean())


def naive_log10_p(deviation: Array, mark: Array) -> Array:
    """Pearson's t-test, greater, of (n,) against every column of mark (n, m): log10 p (m,). Invalid, see the page."""
    from scipy.stats import t

    n = len(deviation)
    a, b = deviation - deviation.mean(), mark - mark.mean(axis=0)
    r = a @ b / (np.linalg.norm(a) * np.linalg.norm(b, axis=0) + 1e-300)
    return np.asarray(t.logsf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2) / np.log(10))


def ranked(observed: float, decoys: Array) -> float:
    """log10 of (1 + decoys as great) / (1 + decoys)."""
    return float(np.log10((1 + (decoys >= observed).sum()) / (1 + len(decoys))))


# ---------------------------------------------------------------- cells


def measured(cell: Cell, folder: Path) -> dict[str, Any]:

    bench = bench_of(cell.task, cell.n, cell.probes, folder)
    return thresholds(bench) if cell.group == "thresholds" else compared(cell, bench)


def compared(cell: Cell, bench: Bench) -> dict[str, Any]:
    """The same student of every mark's answers, each found by what its own paper offers and by more."""
    x, clean = bench.rows("thief"), bench.clean("thief")
    reference = bench.task.inputs("reference", 5000)
    rng = np.random.default_rng(cell.key)
    found: dict[str, Any] = {"ours": _ours(cell, bench)}

    def taught(answers: Array, rows: str) -> Array:
        model = student(cell.student, x, answers, output="probabilities", seed=cell.key)
        return model(bench.rows(rows))

    target = 1 if bench.task.channels == 2 else int(clean.mean(axis=0).argmax())
    for frequency in (16.0, 30.0) if cell.task in ("binary", "five") else (16.0,):
        cosine = Cosine.make(reference, frequency, target, rng)
        marked = cosine.mark(clean, x, cell.epsilon)
        answers = taught(marked, "probes")
        decoys = [Cosine.make(reference, frequency, target, rng) for _ in range(DECOYS)]
        found[f"coswm {frequency:g}"] = _costs(marked, clean) | _cosine_found(bench, cosine, decoys, answers)
        hashed = Hashed.make(reference, frequency, rng)
        marked = hashed.mark(clean, x, cell.epsilon)
        answers = taught(marked, "probes")
        others = [Hashed.make(reference, frequency, rng) for _ in range(DECOYS)]
        found[f"drw {frequency:g}"] = _costs(marked, clean) | _hashed_found(bench, hashed, others, answers)
    for name, wrong in (
        ("dawn 0.5 %", WrongLabels(_secret(cell, "published"), 0.005)),
        ("dawn within epsilon", WrongLabels(_secret(cell, "near"), 0.5, cell.epsilon)),
    ):
        marked = wrong.mark(clean, x)
        found[name] = _costs(marked, clean) | {"log10 p": wrong.log10_p(taught(marked, "thief"), clean, x)}
    return found


def _ours(cell: Cell, bench: Bench) -> dict[str, float]:
    """Our mark on fresh inputs, and the two-tier key on logged ones."""
    basis, key = the_basis(cell.task), the_key(cell.key)
    found: dict[str, float] = {}
    for own in (0.0, 0.3):
        scheme = the_scheme(bench.task, cell.epsilon, own=own)
        marked = Marker(scheme, basis, key).tilt(bench.clean("thief"), bench.rows("thief"))
        model = student(cell.student, bench.rows("thief"), marked, output="probabilities", seed=cell.key)
        asked = "thief" if own else "probes"
        answers, clean, near = model(bench.rows(asked)), bench.clean(asked), bench.surrogates("logged", asked)
        phi = basis.features(bench.rows(asked))
        if not own:
            found |= _costs(marked, bench.clean("thief"))
            found["fresh own"] = evidence(answers, clean, phi, scheme, key, bench.surrogates("own"))
            found["fresh logged"] = evidence(answers, clean, phi, scheme, key, near)
            found["rank"] = _our_rank(scheme, basis, answers, clean, phi, bench, key)
        else:
            found["asked"] = evidence(answers, clean, phi, scheme, key, near)
            coordinates = basis.coordinates(bench.rows(asked))
            found["asked inputs"] = single_inputs(answers, clean, coordinates, scheme, key, near)
    return found


def _our_rank(scheme: Any, basis: Any, answers: Array, clean: Array, phi: Array, bench: Bench, key: Key) -> float:
    """Where our key's cosine stands among as many decoy keys as the others have."""
    from watermark.keys import decoy_keys
    from watermark.scoring.residual import residual

    near = bench.surrogates("own")
    near = near[:, :, 1:] if bench.task.channels == 2 else near
    read = residual(channels_of(answers, scheme), channels_of(clean, scheme), phi, near).coefficients
    decoys = np.array([scheme.score(read, other) for other in decoy_keys(b"baselines", DECOYS)])
    return ranked(scheme.score(read, key), decoys)


def _cosine_found(bench: Bench, cosine: Cosine, decoys: list[Cosine], answers: Array) -> dict[str, float]:
    """SNR on confident answers of the target class, its rank, and a matched filter on our residual."""
    x, score = bench.rows("probes"), answers[:, cosine.target]
    confident = score >= 0.5
    snr = signal_to_noise(cosine.projection(x)[confident], score[confident], cosine.frequency)
    null = np.array([signal_to_noise(d.projection(x)[confident], score[confident], d.frequency) for d in decoys])
    rest = _rest(bench, answers, cosine.target)
    waves = np.column_stack([d.wave(x) for d in (cosine, *decoys)])
    return {"snr": snr, "log10 rank": ranked(snr, null), "null over 3": float((null > 3).mean())} | _matched(
        rest, waves
    )


def _hashed_found(bench: Bench, hashed: Hashed, decoys: list[Hashed], answers: Array) -> dict[str, float]:
    """SNR of the argmax class's score on kept answers, less the least confident twentieth; averaged over classes."""
    x, top = bench.rows("probes"), answers.argmax(axis=1)
    score = answers.max(axis=1)
    classes = [c for c in range(answers.shape[1]) if (top == c).mean() > 0.05]

    def snr(key: Hashed) -> float:
        kept, along = key.kept(x), key.wave_key.projection(x)
        found = []
        for c in classes:
            chosen = kept & (top == c)
            if chosen.sum() < 100:
                continue
            chosen &= score >= np.quantile(score[chosen], 0.05)
            found.append(signal_to_noise(along[chosen], score[chosen], key.wave_key.frequency))
        return float(np.mean(found)) if found else 0.0

    observed, null = snr(hashed), np.array([snr(d) for d in decoys])
    rest = np.column_stack([_rest(bench, answers, c) for c in range(answers.shape[1])])[np.arange(len(x)), top]
    waves = np.column_stack([np.where(d.kept(x), d.wave_key.wave(x), 0) for d in (hashed, *decoys)])
    return {"snr": observed, "log10 rank": ranked(observed, null), "null over 3": float((null > 3).mean())} | _matched(
        rest, waves
    )


def _rest(bench: Bench, answers: Array, channel: int) -> Array:
    near, clean = bench.surrogates("own"), bench.clean("probes")
    return np.asarray(left_over(answers[:, channel], clean[:, channel], near[:, :, channel]))


def _matched(rest: Array, waves: Array) -> dict[str, float]:
    """z of the first column's product with the residual, in the decoys' deviations; its rank too."""
    products = rest @ (waves - waves.mean(axis=0))
    z = (products[0] - products[1:].mean()) / products[1:].std()
    return {"our residual z": float(z), "our residual log10 rank": ranked(products[0], products[1:])}


def _costs(marked: Array, clean: Array) -> dict[str, float]:
    """Largest and root-mean-square move over the answers served, and the share of them whose argmax changed."""
    return {
        "largest move": float(np.abs(marked - clean).max()),
        "rms move": float(np.sqrt(np.square(marked - clean).mean())),
        "flips": float((marked.argmax(axis=1) != clean.argmax(axis=1)).mean()),
    }


def _secret(cell: Cell, label: str) -> bytes:
    return hashlib.sha256(f"{label}/{cell.name}".encode()).digest()


def thresholds(bench: Bench) -> dict[str, Any]:
    """How often published thresholds fire at suspects that learned from unmarked answers, over decoy keys."""
    x, clean = bench.rows("thief"), bench.clean("thief")
    reference, rng = bench.task.inputs("reference", 5000), np.random.default_rng(8)
    found: dict[str, Any] = {}
    for who in ("boosted", "network"):
        answers = student(who, x, clean, output="probabilities", seed=1)(bench.rows("probes"))[:, 1]
        for frequency in (5.0, 10.0, 16.0, 30.0):
            keys = [Cosine.make(reference, frequency, 1, rng) for _ in range(DECOYS)]
            places = [key.projection(bench.rows("probes")) for key in keys]
            for which, chosen in (("confident", answers >= 0.5), ("all", np.ones(len(answers), dtype=bool))):
                null = np.array([signal_to_noise(at[chosen], answers[chosen], frequency) for at in places])
                found[f"coswm/{who}/{frequency:g}/{which}"] = {
                    "median": float(np.median(null)),
                    "over 3": float((null > 3).mean()),
                    "over 10": float((null > 10).mean()),
                }
    return found
