"""The demo: its story in small, and students as innocent suspects over many keys."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from watermark import Outputs, Tokenizer, Watermark, detect, observe
from watermark.demo import story as story_of
from watermark.demo.finished import Finished
from watermark.demo.steps import SUSPECTS
from watermark.demo.story import Size, play, table
from watermark.errors import OutputsInvalid
from watermark.keys import decoy_keys
from watermark.tokenizer import demo_model

SMALL = Size(teach=320, tokens=40, epochs=1, probe=150, probe_tokens=40, batch=160)
KEYS = 200


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "story"
    return folder, play(folder, size=SMALL, share=20)


def test_the_shipped_model_is_small_and_whole():
    files = {path.name: path.stat().st_size for path in demo_model().iterdir()}
    assert files["model.safetensors"] <= 8 * 2**20
    assert {"config.json", "tokenizer.json", "NOTICE.md"} <= set(files)
    width = json.loads((demo_model() / "config.json").read_text())["vocab_size"]
    assert Tokenizer.load("demo").size == width
    assert 4000 <= width <= 8192


def test_probes_are_prompts_that_nobody_was_taught():
    folder = demo_model().parent / "prompts"
    teach, probe = (
        {json.loads(line)["prompt"] for line in (folder / f"{name}.jsonl").read_text().splitlines()}
        for name in ("teach", "probe")
    )
    assert len(teach) >= Size().teach
    assert len(probe) >= Size().probe
    assert not teach & probe


@pytest.mark.slow
def test_the_story_leaves_a_report_and_a_table(told):
    folder, story = told
    assert [row["suspect"] for row in story["suspects"]] == list(SUSPECTS)
    assert "<html" in (folder / "report.html").read_text("utf-8")
    assert len(table(story).splitlines()) == 5
    assert all(0 < row["opened"]["rank_p"] <= 1 for row in story["suspects"])
    assert (folder / "thief.opened.html").exists()
    assert json.loads((folder / "story.json").read_text()) == story


@pytest.mark.slow
def test_marked_answers_carry_the_mark_and_unmarked_do_not(told):
    folder, _ = told
    mark, tokenizer = Watermark.load(folder / "ours.wmark"), Tokenizer.load("demo")
    assert detect(folder / "marked.jsonl", mark, tokenizer=tokenizer).log10_p < -100
    assert detect(folder / "unmarked.jsonl", mark, tokenizer=tokenizer).log10_p > -5


@pytest.mark.slow
def test_share_is_the_share_of_marked_answers_the_thief_learns(told):
    folder, _ = told
    marked = set((folder / "marked.jsonl").read_bytes().splitlines())
    learned = {name: (folder / f"{name}.train.jsonl").read_bytes().splitlines() for name in ("thief", "honest")}
    assert sum(line in marked for line in learned["thief"]) / len(learned["thief"]) == pytest.approx(0.2, abs=0.02)
    assert not marked & set(learned["honest"])


@pytest.mark.slow
def test_a_second_play_repeats_nothing_and_other_settings_are_refused(told, monkeypatch):
    folder, story = told
    again, redone = [], {"test": story_of._tested, "open": story_of._read_open, "start": story_of._started}
    monkeypatch.setattr(story_of, "_started", lambda *given: again.append(given[1]) or redone["start"](*given))
    monkeypatch.setattr(story_of, "_tested", lambda *given: again.append(("test", given[1])) or redone["test"](*given))
    monkeypatch.setattr(story_of, "_read_open", lambda *given: again.append(("open", given[1])) or {"opened": {}})
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "story.json"}
    assert play(folder, size=SMALL, share=20)["suspects"] == story["suspects"]
    assert again == []
    assert {name: (folder / name).read_bytes() for name in before} == before
    (folder / "honest.html").write_text("another page")  # what was written is another now: done again
    kept = [row for row in story["suspects"] if row["suspect"] == "honest"]
    rows = play(folder, size=SMALL, share=20)["suspects"]
    assert [row for row in rows if row["suspect"] == "honest"] == kept
    assert again == [("test", "honest")]
    assert (folder / "honest.html").read_text("utf-8") != "another page"
    with pytest.raises(OutputsInvalid, match="holds a story with other settings"):
        play(folder, size=SMALL, share=100)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputsInvalid, match="holds other files"):
        play(tmp_path, size=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("suspect", ["honest", "untrained"])
def test_innocent_students_have_uniform_pvalues_over_many_keys(told, suspect):
    """No key can know an innocent student: over 200 keys its p-values are as uniform as they should be."""
    pvalues = np.array(list(pvalues_over_keys(told[0], suspect)))
    assert stats.kstest(pvalues, "uniform").pvalue > 0.001
    assert (pvalues <= 0.01).sum() <= stats.binom.ppf(0.999, KEYS, 0.01)
    assert (pvalues <= 0.05).sum() <= stats.binom.ppf(0.999, KEYS, 0.05)


def pvalues_over_keys(folder: Path, suspect: str):
    mark = Watermark.load(folder / "ours.wmark")
    seen = observe(Outputs(folder / f"{suspect}.jsonl"), mark, tokenizer=Tokenizer.load("demo"))
    for key in decoy_keys(b"innocent students", KEYS):
        green = int(mark.rekeyed(key).score(seen.windows, seen.choices).sum())
        yield 10 ** mark.scheme.null.log10_pvalue(green, len(seen))


@pytest.mark.slow
def test_another_teacher_takes_the_place_of_ours(tmp_path):
    """Its vocabulary is the mark's and the students'; it needs no chat template."""
    from tiny import WIDTH, tiny_model

    size = Size(teach=30, tokens=20, epochs=1, probe=30, probe_tokens=20, batch=30)
    story = play(tmp_path / "story", model=str(tiny_model(tmp_path / "teacher")), size=size)
    assert [row["suspect"] for row in story["suspects"]] == list(SUSPECTS)
    assert Watermark.load(tmp_path / "story" / "ours.wmark").binding.logits_width == WIDTH
    assert json.loads((tmp_path / "story" / "thief" / "config.json").read_text())["vocab_size"] == WIDTH


def test_a_step_is_made_once_until_what_it_read_or_wrote_is_another(tmp_path):
    (tmp_path / "read").write_text("a")
    made = []

    def step() -> dict:
        made.append(1)
        (tmp_path / "written").write_text("b")
        return {"count": len(made)}

    def once() -> dict:
        return Finished(tmp_path).once("step", step, reads=[tmp_path / "read"], writes=["written"])

    assert [once(), once()] == [{"count": 1}, {"count": 1}]
    (tmp_path / "written").write_text("other")
    assert [once(), once()] == [{"count": 2}, {"count": 2}]
    (tmp_path / "read").write_text("other")
    assert once() == {"count": 3}
