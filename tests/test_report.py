"""The report page: safe to open, the same bytes each time, plain in its words, complete enough to doubt."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import numpy as np
import pytest

from watermark.detect import detect
from watermark.errors import ExtraMissing
from watermark.evidence import Document, Evidence, ShownDocument, ShownToken
from watermark.keys import Key
from watermark.mark import Watermark
from watermark.outputs import Output
from watermark.report import numbers as written
from watermark.report import page, render
from watermark.report.figures import FAR, figures
from watermark.report.page import SHOWN_TOKENS, sheet
from watermark.report.shell import embedded, visible
from watermark.report.weight import weight_of
from watermark.report.words import cells_needed, summary
from watermark.schemes import GreenList
from watermark.stats.laws import Bernoulli, binomial_interval, detectable_rate

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

MARK = Watermark(GreenList(), Key(bytes(range(32)), kid="0123456789abcdef", salt=bytes(16)))
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">\u202e'
VERDICTS = {"evidence found": 2.5, "no evidence found": 1.0, "inconclusive": 1.0}
ACCUSING = re.compile(
    r"\b(guilty|stole|stolen|steals?|thief|thieves|cheat\w*|culprit|clean|innocence)\b", re.IGNORECASE
)


class HostileTokenizer:
    """Every tenth token is an attack on whoever prints it."""

    digest, source, special_ids, size = "d", "t", (), 500
    shareable = False

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[] for _ in texts]

    def arrays(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(ids, dtype=np.uint32) for ids in self.encode(texts)]

    def texts(self, rows: list[list[int]]) -> list[str]:
        return ["".join(self.pieces(row)) for row in rows]

    def pieces(self, ids: list[int]) -> list[str]:
        return [HOSTILE if i % 10 == 0 else f"w{i} " for i in ids]


@cache
def evidence_of(verdict: str) -> Evidence:
    count = 6 if verdict == "inconclusive" else 60
    rng = np.random.default_rng(3)
    return detect(answers(count, VERDICTS[verdict], rng), MARK, tokenizer=HostileTokenizer(), decoys=99)  # type: ignore[arg-type]


def answers(count: int, lean: float, rng: np.random.Generator) -> list[Output]:
    """Random tokens; `lean` times more often one that MARK makes green."""
    made = []
    for number in range(count):
        ids = [int(i) for i in rng.integers(0, 500, 2)]
        for _ in range(60):
            choices = rng.integers(0, 500, 4)
            weight = np.where(MARK.score(np.array([ids[-2:]] * 4), choices) == 1, lean, 1.0)
            ids.append(int(rng.choice(choices, p=weight / weight.sum())))
        made.append(Output(id=f"answer-{number}{HOSTILE}", token_ids=tuple(ids), prompt_token_ids=(1, 2, 3)))
    return made


def hostile() -> Evidence:
    """An attack in every string that a suspect or a forger could fill."""
    found = evidence_of("evidence found")
    return dataclasses.replace(
        found,
        notes=[HOSTILE],
        method=HOSTILE,
        null=HOSTILE,
        created=HOSTILE,
        software={HOSTILE: HOSTILE},
        skipped={HOSTILE: 1},
        documents=[Document(HOSTILE, 60, 50, 20)],
        shown=[ShownDocument(HOSTILE, [ShownToken(HOSTILE, 1), ShownToken("\x00\r\n", None)])],
        inputs={"outputs": {"name": HOSTILE, "bytes": 1, "sha256": "0" * 64}},
        mark=found.mark | {"kid": HOSTILE, "commitment": HOSTILE},
    )


class Elements(HTMLParser):
    """What a browser would see: every element with its attributes, and every piece of text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def words_of(text: str) -> str:
    """All words of a page; spaces of every kind are one."""
    return re.sub(r"\s+", " ", " ".join(Elements(text).texts))


def first_screen(text: str) -> str:
    """The words above the first picture."""
    above = text[text.index("<body>") : text.index('<section class="picture">')]
    return re.sub("[ \n]+", " ", " ".join(Elements(above).texts))


def with_green(found: Evidence, green: int) -> Evidence:
    n, law = found.cells, Bernoulli(found.gamma)
    return dataclasses.replace(
        found,
        green=green,
        green_rate=green / n,
        green_rate_interval=binomial_interval(green, n),
        log10_p=law.log10_pvalue(green, n),
        z=(green - n * law.mean) / (n * law.variance) ** 0.5,
    )


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_corpora_give_each_verdict(verdict: str) -> None:
    assert evidence_of(verdict).verdict == verdict


def each_verdict() -> list[Evidence]:
    return [evidence_of(verdict) for verdict in VERDICTS]


def test_page_is_the_same_bytes_twice() -> None:
    found = evidence_of("evidence found")
    assert page(found) == page(found)


def test_page_is_the_same_bytes_after_saving_and_loading(tmp_path: Any) -> None:
    found = evidence_of("evidence found")
    found.save(tmp_path / "evidence.json")
    assert page(Evidence.load(tmp_path / "evidence.json")) == page(found)


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_in_another_process_place_and_language(tmp_path: Any) -> None:
    """Hash seeds, time zones, locales and folders do not enter the page, nor the certification."""
    found = evidence_of("evidence found")
    settings = ({"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"}, {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"})
    made = []
    for number, setting in enumerate(settings):
        folder = tmp_path / f"folder {number}"
        folder.mkdir()
        found.save(folder / "e.json")
        command = [sys.executable, "-m", "wmark_cli", "report", "e.json", "--certification", "c.md"]
        subprocess.run(command, cwd=folder, env=os.environ | setting, check=True, capture_output=True)
        made.append([(folder / name).read_bytes() for name in ("report.html", "c.md")])
    assert made[0] == made[1]
    assert made[0][0] == page(found).encode()


def test_page_does_not_heed_the_readers_matplotlib_settings() -> None:
    import matplotlib

    found = evidence_of("inconclusive")
    before = page(found)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        assert page(found) == before
        assert matplotlib.rcParams["font.size"] == 30


def test_render_writes_the_page(tmp_path: Any) -> None:
    found = evidence_of("inconclusive")
    render(found, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode() == page(found)


@pytest.mark.parametrize("make", [hostile, lambda: evidence_of("evidence found")])
def test_hostile_text_is_escaped(make: Any) -> None:
    text = page(make())
    elements = Elements(text)
    assert "<script" not in text.lower()
    assert "<img" not in text
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert sum(tag == "pre" and attributes.get("id") == "evidence-json" for tag, attributes in elements.tags) == 1
    assert "alert(1)" in text


def test_hidden_characters_are_named() -> None:
    assert visible("a\u202eb\x00\n") == "a‹U+202E›b‹U+0000›\n"
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\r]", page(hostile()))


def test_page_fetches_nothing_and_runs_no_script() -> None:
    text = page(evidence_of("evidence found"))
    elements = Elements(text)
    assert {tag for tag, _ in elements.tags} & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "form",
        "base",
    } == set()
    links = [v or "" for _, a in elements.tags for n, v in a.items() if n in ("src", "href", "action", "xlink:href")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import|javascript:", text)
    assert "http" not in text.replace("http-equiv", "")


def test_policy_allows_our_style_sheet_and_nothing_else() -> None:
    text = page(evidence_of("inconclusive"))
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert not [a for _, a in Elements(text).tags if "style" in a]


def test_every_link_leads_to_a_place_on_the_page() -> None:
    tags = Elements(page(evidence_of("evidence found"))).tags
    ids = {a["id"] for _, a in tags if "id" in a}
    links = [a["href"] for tag, a in tags if tag == "a"]
    assert len(links) == 8
    assert {(link or "").removeprefix("#") for link in links} <= ids


def test_every_id_is_used_once() -> None:
    ids = [a["id"] for _, a in Elements(page(evidence_of("evidence found"))).tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_verdict_has_its_words() -> None:
    found, none, little = (first_screen(page(e)) for e in each_verdict())
    assert "Evidence found" in found
    assert "These outputs depend on our key: the suspect was exposed, in some way, to marked text." in found
    assert "We found no evidence that these outputs depend on our key." in none
    reach = written.percent(evidence_of("no evidence found").detectable_rate or 0)
    assert f"A green rate above {reach} would have been found with probability 90" in none
    assert "There is too little text to say" in little
    assert "Collect more of the suspect's text" in little


def test_first_screen_says_what_it_does_not_show() -> None:
    for evidence in each_verdict():
        words = first_screen(page(evidence))
        assert "What it does not show" in words
        assert "does not show who acted, or with what intent" in words
        assert "not the probability that the suspect is innocent" in words
        assert "committed to before" in words
    words = first_screen(page(evidence_of("evidence found")))
    for other_way in ("published on the web", "third model", "planted", "leaked key", "looked up or in the prompt"):
        assert other_way in words


def test_first_screen_gives_four_short_answers_in_their_order() -> None:
    """A reader with a minute: what was asked, found, how sure, what it does not show, in under 270 words."""
    for evidence in each_verdict():
        words = first_screen(page(evidence))
        said = ["What was asked", "What was found", "How sure", "What it does not show"]
        places = [words.index(each) for each in said]
        assert places == sorted(places)
        answers = words[places[0] : words.index("To weigh it")].split("What to do")[0]
        assert len(answers.split()) < 270


def test_first_screen_answers_with_odds_and_a_word_of_the_scale() -> None:
    found = evidence_of("evidence found")
    words = first_screen(page(found))
    once = f"a result at least this strong would occur {written.odds(found.log10_p)} such tests"
    assert "If the suspect had never met answers marked with this key, " + once in words
    assert f"In the words of the ENFSI scale: {weight_of(found).band} for dependence on our key" in words
    assert found.mark["commitment"] not in words
    assert found.mark["commitment"] in " ".join(Elements(page(found)).texts)


def test_words_never_accuse() -> None:
    lower = dataclasses.replace(evidence_of("evidence found"), alternative="less")
    for evidence in [*each_verdict(), lower]:
        words = words_of(page(evidence))
        assert ACCUSING.search(words) is None
        assert "theft" not in words
        assert "innocent" not in words.replace("the probability that the suspect is innocent", "")


def test_how_much_more_text_is_enough_and_not_far_too_much() -> None:
    little = evidence_of("inconclusive")
    needed = cells_needed(little)
    enough = detectable_rate(needed, little.gamma, alpha=little.alpha, power=little.power)
    too_few = detectable_rate(needed * 9 // 10, little.gamma, alpha=little.alpha, power=little.power)
    assert enough is not None
    assert enough <= little.gamma + 0.05 < (too_few or 1)


def test_a_test_that_could_find_nothing_says_so() -> None:
    assert (
        "100 % would not have been found"
        in summary(dataclasses.replace(evidence_of("inconclusive"), detectable_rate=None)).power
    )


def test_figures_have_tables() -> None:
    found = evidence_of("evidence found")
    text = page(found)
    drawn = figures(found)
    assert len(drawn) == 3
    for figure in drawn:
        assert figure.rows
        assert all(len(row) == len(figure.columns) for row in figure.rows)
        after = text[text.index(f'id="caption-{figure.name}"') :]
        assert after.index("<details>") < after.index("<table>") < after.index("</details>")
    assert written.percent(found.green_rate, written.decimals(found.gamma, found.cells)) in drawn[0].caption


def test_decoy_table_counts_every_decoy() -> None:
    found = evidence_of("evidence found")
    decoys = figures(found)[0]
    assert sum(int(row[2]) for row in decoys.rows) == len(found.decoys.totals)
    assert sum(float(row[3]) for row in decoys.rows) == pytest.approx(len(found.decoys.totals), rel=0.02)


def test_a_key_far_off_breaks_the_axis_and_says_so() -> None:
    found = evidence_of("evidence found")
    for green in (0, found.cells):
        far = with_green(found, green)
        assert abs(far.z) > FAR
        assert "axis broken" in figures(far)[0].svg
    assert "axis broken" not in figures(with_green(found, found.cells // 4))[0].svg


def test_answers_without_cells_are_not_drawn() -> None:
    found = evidence_of("evidence found")
    emptied = dataclasses.replace(found, documents=[Document("empty", 3, 0, 0), *found.documents])
    assert figures(emptied)[2] == figures(found)[2]


def test_heat_map_is_capped_and_keeps_its_counts() -> None:
    tokens = [ShownToken("a\n", 1), ShownToken("", 0), ShownToken("x" * 99, None)] * 200
    shown = sheet(ShownDocument("a", tokens))
    assert len(shown.tiles) == SHOWN_TOKENS
    assert shown.left_out == 600 - SHOWN_TOKENS
    assert [tile.kind for tile in shown.tiles[:3]] == ["green", "red", "unscored"]
    assert shown.tiles[0].text == "a↵\n"
    assert max(len(tile.text) for tile in shown.tiles) < 50
    assert (shown.green, shown.scored) == (84, 167)


@pytest.mark.parametrize("make", [hostile, *(lambda v=v: evidence_of(v) for v in VERDICTS)])
def test_page_holds_its_evidence(make: Any) -> None:
    found = make()
    text = page(found)
    assert Evidence.from_json(embedded(text)).digest == found.digest
    assert found.digest in text


def test_a_page_without_evidence_is_refused() -> None:
    with pytest.raises(ValueError, match="no evidence"):
        embedded("<html></html>")


def test_commands_name_the_inputs_and_quote_them() -> None:
    found = evidence_of("evidence found")
    file = {"name": "a b.jsonl", "bytes": 1, "sha256": "0" * 64}
    with_files = dataclasses.replace(
        found,
        inputs={"outputs": file, "ledger": file | {"name": "served.jsonl"}},
        options=found.options | {"ledger": True, "skip_bad": True, "fields": {"text": "what he said"}},
        mark=found.mark | {"tokenizer": {"digest": "d", "logits_width": 500, "special_ids": []}},
    )
    words = " ".join(Elements(page(with_files)).texts)
    assert (
        "wmark verify evidence.json --outputs 'a b.jsonl' --mark MARK.wmark --ledger served.jsonl "
        "--tokenizer MODEL_FOLDER" in words
    )
    assert (
        "wmark detect 'a b.jsonl' --mark MARK.wmark --ledger served.jsonl --tokenizer MODEL_FOLDER --decoys 99 "
        "--alpha 0.001 --alternative greater --skip-bad --field 'text=what he said'" in words
    )


def test_outputs_from_memory_are_said_to_bind_no_file() -> None:
    words = " ".join(Elements(page(evidence_of("evidence found"))).texts)
    assert "--outputs" not in words
    assert "no file’s digest binds them" in words


def schema() -> Any:
    return json.loads(resources.files("watermark.report").joinpath("evidence.schema.json").read_text("utf-8"))


def test_schema_accepts_our_evidence_and_rejects_an_unknown_field() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    jsonschema.Draft202012Validator.check_schema(schema())
    for evidence in each_verdict():
        stored = json.loads(json.dumps(evidence.to_json()))
        validator.validate(stored)
        for where in (
            stored,
            stored["decoys"],
            stored["curve"][0],
            stored["mark"]["scheme"],
            stored["options"],
        ):
            where["surprise"] = 1
            assert not validator.is_valid(stored)
            del where["surprise"]
        for name in list(stored):
            assert not validator.is_valid({k: v for k, v in stored.items() if k != name})


def test_schema_names_every_field_of_evidence() -> None:
    names = {field.name for field in dataclasses.fields(Evidence)}
    assert set(schema()["properties"]) == names | {"format", "digest"}
    assert set(schema()["required"]) == (names - {"levels", "keys"}) | {"format", "digest"}


@pytest.mark.parametrize(
    "log10_p, p, odds",
    [
        (0.0, "1", "about 100 times in 100"),
        (-0.5462, "0.28", "about 28 times in 100"),
        (-2.0, "0.01", "about once in 100"),
        (-3.2, "0.00063", "about once in 1,600"),
        (-93.08, "8.3 × 10⁻⁹⁴", "about once in 1.2 × 10⁹³"),
        (-10000.0, "1.0 × 10⁻¹⁰⁰⁰⁰", "about once in 1.0 × 10¹⁰⁰⁰⁰"),
        (-9.00001, "1.0 × 10⁻⁹", "about once in 1.0 × 10⁹"),
    ],
)
def test_pvalues_are_written_for_people(log10_p: float, p: str, odds: str) -> None:
    assert written.pvalue(log10_p).replace("\u00a0", " ") == p
    assert written.odds(log10_p).replace("\u00a0", " ") == odds


def test_more_text_earns_more_decimals() -> None:
    assert [written.decimals(0.25, n) for n in (50, 30_000, 1_000_000, 10**12)] == [1, 1, 2, 4]


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = evidence_of("inconclusive")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraMissing, match=library) as raised:
        page(found)
    assert "wmark[evidence]" in (raised.value.hint or "")
