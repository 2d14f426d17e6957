"""The demo's rebuild: its instructions, its cleaning, its command; what needs the writer or hours is not run here."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from watermark.demo import rebuild
from watermark.demo.corpus import Pair, clean, read_corpus
from watermark.demo.shards import EXAMPLES, genre_of, progress
from watermark.demo.subjects import COMMON, HELD_OUT, LEARNT, filled, instruction_sets, write_prompts
from watermark.demo.teacher import Report
from watermark.demo.writer import SHA256, WHEEL, fetch_writer, repeats

SHIPPED = Path(rebuild.__file__).parent / "prompts"
PROSE = (
    "A shy fox lived near the old mill. One cold morning he found a small lantern under the bridge. "
    "He lit it and walked through the dark forest. All his friends saw the light and followed him home."
)
OTHER = (
    "Bread needs flour, water, salt and time. Mix them well with both hands until the dough feels soft. "
    "Let it rest beside a warm oven, then bake it for an hour and wait before you cut."
)


@pytest.fixture(scope="module")
def sets():
    corpus, teach, probe = instruction_sets()
    return {"corpus": corpus, "teach": teach, "probe": probe}


def words(texts):
    return set(re.findall(r"\w+", " ".join(texts).lower()))


def shard(path, answers, *, batch=0):
    rows = [{"batch": batch + i, "prompt": f"p{batch + i}", "tokens": 9, "answer": a} for i, a in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- instructions -------------------------------------------------------------------------------------------


def test_shipped_prompts_are_exactly_what_is_made(tmp_path):
    write_prompts(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SHIPPED.glob("*.jsonl")}


def test_teach_probe_and_corpus_share_no_instruction(sets):
    corpus, teach, probe = map(set, sets.values())
    assert not corpus & teach
    assert not corpus & probe
    assert not teach & probe


def test_no_instruction_is_taught_or_probed_twice(sets):
    for name in ("teach", "probe"):
        assert len(set(sets[name])) == len(sets[name])


def test_held_out_subjects_occur_in_probes_only(sets):
    subjects = {word for slot in HELD_OUT.keys() - COMMON.keys() for word in HELD_OUT[slot]}
    assert subjects <= words(sets["probe"])
    assert not subjects & words(sets["corpus"] + sets["teach"])
    assert all(subjects & words([text]) for text in sets["probe"])


def test_held_out_and_learnt_differ_in_subjects_only():
    assert {slot for slot in LEARNT if LEARNT[slot] == HELD_OUT[slot]} == COMMON.keys()


def test_sizes_limit_each_genre():
    corpus, teach, probe = instruction_sets(each=5, teach=3, probe=2)
    assert [len(corpus), len(teach), len(probe)] == [5 * 5, 5 * 3, 5 * 2]


def test_articles_fit_their_words():
    assert list(filled("a {thing} for a {listener}", {"thing": ["oven", "lamp"], "listener": ["uncle"]})) == [
        "an oven for an uncle",
        "a lamp for an uncle",
    ]


def test_the_writer_is_shown_one_example_a_genre_and_none_is_asked(sets):
    asked = {text for texts in sets.values() for text in texts}
    assert {genre_of(text) for text in asked} == EXAMPLES.keys()
    assert {genre_of(question) for question, _ in EXAMPLES.values()} == EXAMPLES.keys()
    assert not {question for question, _ in EXAMPLES.values()} & asked


# --- the corpus ---------------------------------------------------------------------------------------------


def test_plain_prose_is_kept_as_it_is():
    assert clean(PROSE) == PROSE
    assert clean(OTHER) == OTHER


def test_an_unfinished_answer_is_cut_to_whole_sentences():
    assert clean(PROSE + " Then he sat down by the") == PROSE
    assert clean(PROSE + ' He said: "Come in!" Then they') == PROSE + ' He said: "Come in!"'
    assert clean("one long sentence that never comes to its end " * 4) == ""


def test_an_ended_answer_keeps_its_signature_and_loses_what_follows():
    assert clean(PROSE + "\nWith love,\nTom<|im_end|>\n<|im_start|>user") == PROSE + "\nWith love,\nTom"


def test_typeset_quotes_and_spaces_become_plain():
    assert clean(PROSE.replace("A shy", "The owl\u2019s  \u201cshy\u201d") + " \n\n Good.") == (
        PROSE.replace("A shy", 'The owl\'s "shy"') + "\nGood."
    )


@pytest.mark.parametrize(
    "text",
    [
        f"1. {PROSE}",
        f"{PROSE}\n2) {OTHER}",
        f"- {PROSE}",
        f"{PROSE}\n- {OTHER}",
        f"# A fox\n{PROSE}",
        f"**{PROSE}**",
        f"{PROSE} `fox`.",
        f"{PROSE} <b>Yes</b>.",
    ],
)
def test_lists_and_markdown_are_dropped(text):
    assert clean(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        f"I'm sorry, but that is not for me. {PROSE}",
        f"I\u2019m sorry, but that is not for me. {PROSE}",
        f"As an AI, I know no fox. {PROSE}",
        f"{PROSE} I cannot say more.",
        f"Sure! {PROSE}",
        f"Here is a story. {PROSE}",
    ],
)
def test_refusals_and_talk_about_the_answer_are_dropped(text):
    assert clean(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The fox ran home.",
        "The fox ran home and slept. " * 8,
        PROSE + " He was very, very, very, very, very, very tired.",
        PROSE + ' He said "come in.',
        PROSE + " Caf\u00e9.",
    ],
)
def test_degenerate_answers_are_dropped(text):
    assert clean(text) == ""


def test_near_duplicates_are_dropped_and_the_first_batch_stays(tmp_path):
    shard(tmp_path / "corpus-0.jsonl", [PROSE.replace("shy", "sly"), OTHER], batch=10)
    shard(tmp_path / "corpus-1.jsonl", [PROSE, PROSE, "Too short."], batch=0)
    assert read_corpus(tmp_path) == [Pair("p0", PROSE), Pair("p11", OTHER)]


def test_progress_is_what_the_shard_holds(tmp_path):
    path = tmp_path / "corpus-0.jsonl"
    assert progress(path) == (set(), 0)
    shard(path, [PROSE, OTHER], batch=4)
    assert progress(path) == ({4, 5}, 18)


# --- the writer ---------------------------------------------------------------------------------------------


def test_a_token_that_would_repeat_a_triple_is_named():
    assert repeats([1, 2, 3, 1, 2]) == [3]
    assert repeats([1, 2, 3, 2, 1]) == []


def test_other_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("watermark.demo.writer.WEIGHTS", "other.gguf")
    (tmp_path / "other.gguf").write_bytes(b"other")
    with pytest.raises(ValueError, match="delete it and run again"):
        fetch_writer(tmp_path)


# --- the rebuild --------------------------------------------------------------------------------------------


def test_help_appears_without_torch_or_transformers():
    command = [sys.executable, "-X", "importtime", "-m", "watermark.demo.rebuild", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "--work" in done.stdout
    assert "watermark" in imported
    assert not imported & {"torch", "transformers", "tokenizers", "gguf", "numpy"}


def test_every_option_reaches_the_rebuild(monkeypatch):
    calls = []
    monkeypatch.setattr(rebuild, "rebuild", lambda work, **options: calls.append((work, options)))
    rebuild.main(["--work", "w"])
    rebuild.main(["--work", "w", "--tokens", "5", "--workers", "3", "--epochs", "1"])
    assert calls == [
        (Path("w"), {"tokens": 600_000, "workers": 2, "epochs": 7}),
        (Path("w"), {"tokens": 5, "workers": 3, "epochs": 1}),
    ]


def test_notice_names_the_writer_and_shows_the_samples():
    report = Report(2_816_064, 3, 40, 7, 1.5, 2.25, 1, 2.0, [Pair("Tell a story.", "One line.\nAnother.")])
    text = rebuild.notice(report)
    assert WHEEL in text
    assert SHA256 in text
    assert "2,816,064 parameters" in text
    assert "> One line.  \n> Another.  " in text


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    rebuild.replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new.txt"]
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
