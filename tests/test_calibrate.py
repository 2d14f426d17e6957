"""calibrate(): students of known shares say what an effect means, and only of a suspect who was tested as they were."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.calibrate import Calibrated, calibrate, effect_of, read_calibration, way_of
from watermark.detect import detect
from watermark.errors import CalibrationInvalid
from watermark.evidence import Evidence, Statistic, Weighted
from watermark.outputs import Output

SHARES = (0.0, 0.0, 0.0, 0.0, 0.05, 0.05, 0.2, 0.2, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def plain(source, mark) -> Evidence:
    """Evidence of an innocent text."""
    ids = source.sample(12, 40, np.random.default_rng(5), window=2)
    return detect([Output(f"a{n}", token_ids=tuple(row)) for n, row in enumerate(ids.tolist())], mark, decoys=99)


def _student(plain: Evidence, share: float, rng: np.random.Generator, cells: int = 10_000) -> Evidence:
    """A student of the share: concave in it, students of one share a tenth apart, noise of the test itself."""
    z = 0.4 * share**0.7 * rng.normal(1, 0.1) * cells**0.5 + rng.normal()
    return dataclasses.replace(plain, z=float(z), cells=cells, created=rng.bytes(8).hex())


def _weighted(plain: Evidence, access: str, reference: str | None, names: tuple[str, ...]) -> Evidence:
    statistics = [
        Statistic(name, 10_000, 9.0, 1, 0.0, 1.0, 5.0, -1.0, "exact lattice", -1.0, 1.0, 0.01) for name in names
    ]
    deep = Weighted(access, reference, 1.0, -1.0, 0.01, statistics, {})
    return dataclasses.replace(plain, access=access, weighted=deep)


@pytest.fixture(scope="module")
def made(plain) -> Calibrated:
    rng = np.random.default_rng(3)
    return calibrate([(_student(plain, share, rng), share) for share in SHARES])


def test_effect_does_not_grow_with_the_number_of_cells(plain):
    rng = np.random.default_rng(1)
    few, many = (
        np.mean([effect_of(_student(plain, 0.2, rng, cells), "votes")[0] for _ in range(300)])
        for cells in (4_000, 64_000)
    )
    assert few == pytest.approx(many, rel=0.05)
    assert effect_of(dataclasses.replace(plain, z=3.0, cells=400), "votes") == (0.15, 0.05)


@pytest.mark.slow
def test_interval_covers_the_share_at_its_rate(plain):
    """New calibrations and new suspects each time; 95 % intervals may not cover less than 93 % of the time."""
    rng, covered = np.random.default_rng(7), {share: [] for share in (0.0, 0.01, 0.05, 0.2, 1.0)}
    for _ in range(30):
        fitted = calibrate([(_student(plain, share, rng), share) for share in SHARES])
        for share, found in covered.items():
            for _ in range(10):
                dose = fitted.dose(_student(plain, share, rng))
                found.append(dose["low"] <= share <= dose["high"])
    for share, found in covered.items():
        assert sum(found) >= binom.ppf(0.001, len(found), 0.95), (share, np.mean(found))
    assert np.mean([c for found in covered.values() for c in found]) >= 0.93


def test_dose_says_how_it_came_about(made, plain):
    rng = np.random.default_rng(9)
    found, none = _student(plain, 0.2, rng), _student(plain, 0.0, rng)
    dose = made.dose(found, ambient=none)
    assert 0 < dose["low"] < dose["share"] < dose["high"] < 1
    assert (dose["level"], dose["statistic"]) == (0.95, "votes")
    assert dose["controls"] == [[s.share, s.effect, s.se] for s in made.students]
    assert dose["calibration"] == made.digest
    assert dose["ambient"]["exceeded"] is True
    assert dose["ambient"]["low"] == 0.0
    assert made.dose(found)["ambient"] is None
    assert made.dose(none, ambient=found)["ambient"]["exceeded"] is False
    assert json.loads(json.dumps(dose)) == dose


def test_detect_carries_the_dose(made, mark, source, tmp_path):
    ids = source.sample(12, 40, np.random.default_rng(6), window=2)
    outputs = [Output(f"a{n}", token_ids=tuple(row)) for n, row in enumerate(ids.tolist())]
    made.save(tmp_path / "calibration.json")
    found = detect(outputs, mark, decoys=99, calibration=tmp_path / "calibration.json")
    assert found.dose == made.dose(found)
    assert found.dose["low"] < 0.01 < found.dose["high"]
    found.save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json").dose == found.dose
    beside = detect(outputs, mark, decoys=99, calibration=made, ambient=tmp_path / "evidence.json")
    assert beside.dose["ambient"]["share"] == found.dose["share"]
    with pytest.raises(ValueError, match="pass plan or calibration"):
        detect(outputs, mark, decoys=99, ambient=found)
    with pytest.raises(CalibrationInvalid, match="alternative 'two-sided', the students 'greater'"):
        detect(outputs, mark, decoys=99, calibration=made, alternative="two-sided")


def test_a_suspect_tested_otherwise_is_refused_in_words(plain):
    rng, names = np.random.default_rng(3), ("difference", "log-ratio")
    usual = _weighted(plain, "logits", "base", names)
    students = []
    for share in SHARES:
        z = float(40 * share + rng.normal())
        statistics = [dataclasses.replace(s, z=z) for s in usual.weighted.statistics]
        student = dataclasses.replace(usual, weighted=dataclasses.replace(usual.weighted, statistics=statistics))
        students.append((dataclasses.replace(student, created=rng.bytes(8).hex()), share))
    fitted = calibrate(students)
    assert fitted.way.statistic == "difference"
    fitted.dose(usual)
    for other, words in (
        (_weighted(plain, "log-probabilities", "base", names), "access 'log-probabilities', the students 'logits'"),
        (_weighted(plain, "logits", "elsewhere", names), "reference 'elsewhere', the students 'base'"),
        (_weighted(plain, "logits", None, ("mass",)), "has no statistic 'difference'; it has votes, mass"),
        (_scheme(usual, window=1), "window 1, the students 2"),
        (_scheme(usual, delta=4.0), "delta 4.0, the students 2.0"),
        (dataclasses.replace(usual, tokens_read=3 * usual.tokens_read), "from 1,512 tokens, the students from 504"),
    ):
        with pytest.raises(CalibrationInvalid, match=words):
            fitted.dose(other)
    with pytest.raises(CalibrationInvalid, match="the ambient evidence was read otherwise"):
        fitted.dose(usual, ambient=_scheme(usual, window=1))
    with pytest.raises(CalibrationInvalid, match="not tested alike: delta is 2.0 for the first, 4.0 for number 2"):
        calibrate([students[0], (_scheme(usual, delta=4.0), 0.2)])
    assert calibrate(students, statistic="log-ratio").way.statistic == "log-ratio"


def _scheme(found: Evidence, **changed) -> Evidence:
    scheme = found.mark["scheme"]
    return dataclasses.replace(
        found, mark=found.mark | {"scheme": scheme | {"parameters": scheme["parameters"] | changed}}
    )


def test_students_that_tell_nothing_apart_are_refused(plain):
    rng = np.random.default_rng(4)
    none = [(_student(plain, 0.0, rng), share) for share in SHARES]
    with pytest.raises(CalibrationInvalid, match="too close to 0"):
        calibrate(none)
    with pytest.raises(CalibrationInvalid, match="at least 3 distinct shares"):
        calibrate([(_student(plain, 0.2, rng), 0.2)])
    with pytest.raises(CalibrationInvalid, match="none was given"):
        calibrate([])
    with pytest.raises(CalibrationInvalid, match="given twice"):
        calibrate([(plain, 0.0), (plain, 0.2)])


def test_calibration_survives_its_file_and_shows_every_change(made, tmp_path):
    path = tmp_path / "calibration.json"
    made.save(path)
    assert read_calibration(path) == made
    stored = json.loads(path.read_bytes())
    stored["students"][-1]["share"] = 0.9
    for content, words in (
        (json.dumps(stored), "does not match its digest"),
        ("{", "is not JSON"),
        ("{}", "is not a calibration"),
        ('{"format": "wmark-calibration/1"}', "is not complete"),
    ):
        path.write_text(content)
        with pytest.raises(CalibrationInvalid, match=words):
            read_calibration(path)
    with pytest.raises(CalibrationInvalid, match="cannot be read"):
        read_calibration(tmp_path / "missing.json")


def test_command_makes_a_calibration_from_evidence_files(plain, tmp_path):
    rng, given = np.random.default_rng(8), []
    for number, share in enumerate(SHARES):
        path = tmp_path / f"student{number}.json"
        _student(plain, share, rng).save(path)
        given.append(f"{path}={share}")
    output = tmp_path / "calibration.json"
    done = CliRunner().invoke(app, ["calibrate", *given, "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("statistic     votes, read from text\nstudent       share 0: effect")
    assert len(read_calibration(output).students) == len(SHARES)
    for wrong in ("student0.json", "student0.json=2", "=0.5", f"{tmp_path / 'student0.json'}=half"):
        assert CliRunner().invoke(app, ["calibrate", wrong, "--output", str(output)]).exit_code == 2


def test_way_is_read_from_the_evidence_alone(plain):
    way = way_of(plain, "votes")
    assert (way.access, way.reference, way.window, way.delta) == ("text", None, 2, 2.0)
    with pytest.raises(CalibrationInvalid, match="has no statistic 'mass'; it has votes"):
        way_of(plain, "mass")
