"""attribute: the account that taught a suspect is found, innocents are named at most at the stated rate."""

import hashlib
import json
import math

import numpy as np
import pytest
from scipy.stats import binom
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark import Attribution, attribute
from watermark.accounts import Accounts
from watermark.attribute import NULL
from watermark.errors import AccountsInvalid, MarkInvalid, TooFewObservations, WatermarkError
from watermark.keys import decoy_keys
from watermark.mark import Watermark
from watermark.observe import Observations, observe
from watermark.outputs import Output
from watermark.schemes import GreenList, Gumbel

KEY = next(iter(decoy_keys(b"attribute", 1)))
NAMES = [f"account {number}" for number in range(1_000)]


def seen(windows: np.ndarray, choices: np.ndarray, **weights: np.ndarray) -> Observations:
    """Observations of given cells; votes are ones unless weights are given."""
    given = weights or {"votes": np.ones(len(choices), dtype=np.int32)}
    digest = hashlib.sha256(windows.tobytes() + choices.tobytes() + b"".join(w.tobytes() for w in given.values()))
    none = np.zeros(len(choices), dtype=np.int64)
    return Observations(
        windows=windows.astype(np.uint32),
        choices=choices.astype(np.uint32),
        documents=none,
        names=("0",),
        tokens=np.array([len(choices)]),
        skipped={},
        prompts_known=0,
        samples=(),
        digest=digest.hexdigest(),
        weights={name.replace("_", "-"): values for name, values in given.items()},
    )


@pytest.fixture(scope="module")
def mark(binding) -> Watermark:
    return Watermark(GreenList(window=1), KEY, binding, accounts=Accounts())


@pytest.fixture(scope="module")
def teach(source, mark):
    """A student: bigram counts of half a million training tokens, of which given accounts wrote given shares.

    A bigram source writes Poisson counts of each token after each context; drawn here for the 600 commonest contexts.
    The observations are the reader's: sqrt(p) times the log-ratio to an honest student of other unmarked answers, on
    the twenty likeliest tokens of each context; or one vote for each that the student prefers.
    """
    often = np.bincount(source.start, minlength=len(source.logits))
    contexts = np.argsort(-often)[:600]
    logits, windows = source.logits[contexts], contexts[:, None]
    tokens = 500_000 * often[contexts, None] / often.sum()

    def rates(tilt=None) -> np.ndarray:
        given = np.exp((logits if tilt is None else tilt(logits, windows)).astype(np.float64))
        return given / given.sum(axis=1, keepdims=True)

    plain = rates()

    def learned(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        counts = rng.poisson(tokens * rate) + 5 * plain
        return counts / counts.sum(axis=1, keepdims=True)

    def taught(shares: dict[str, float], seed: int) -> Observations:
        rng = np.random.default_rng(seed)
        written = (1 - sum(shares.values())) * plain
        for name, share in shares.items():
            written = written + share * rates(mark.account(name).tilt)
        student, reference = learned(written, rng), learned(plain, rng)
        likely = np.argsort(-student, axis=1)[:, :20]
        p, r = (np.take_along_axis(model, likely, axis=1).ravel() for model in (student, reference))
        ratio = np.sqrt(p) * (np.log(p) - np.log(r))
        weights = np.rint(ratio * 16 / np.sqrt((ratio**2).mean())).astype(np.int32)
        votes = (weights > 0).astype(np.int32)
        return seen(np.repeat(windows, 20, axis=0), likely.ravel(), votes=votes, log_ratio=weights)

    return taught


@pytest.mark.slow
def test_one_account_at_five_per_cent_is_found_among_a_thousand(teach, mark):
    """Twelve students, each of another account; at FWER 1 % all are found and nobody else is."""
    for seed in range(12):
        guilty = NAMES[seed * 61]
        found = attribute(teach({guilty: 0.05}, seed), mark, NAMES, decoys=0)
        assert found.found == [guilty]
        assert found.statistic == "log-ratio"
        assert found.exposures[0].log10_p_holm < -2
        assert found.hypotheses == 1_000
        assert found.runner_up in set(NAMES) - {guilty}
        assert found.gap == pytest.approx(found.exposures[0].score - found.exposures[1].score)


def test_a_student_of_nobody_is_laid_to_nobody(teach, mark):
    found = attribute(teach({}, 99), mark, NAMES, decoys=9)
    assert found.found == []
    assert found.verdict == "none found: no exposure to the answers of any of 1000 accounts"
    assert {e.verdict for e in found.exposures} == {"none found"}
    assert found.runner_up == found.exposures[1].account
    assert found.gap == found.exposures[0].score - found.exposures[1].score


def test_five_accounts_together_are_all_found_at_a_higher_dose(teach, mark):
    colluders = NAMES[100:105]
    found = attribute(teach(dict.fromkeys(colluders, 0.06), 7), mark, NAMES, decoys=19)
    assert sorted(found.found) == colluders
    assert found.runner_up == found.exposures[5].account
    assert [e.max_t_pvalue for e in found.exposures[:5]] == [0.05] * 5
    assert found.exposures[5].max_t_pvalue > 0.05


def cells(number: int, *, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return rng.integers(0, 2**16, (count, 1)), rng.integers(0, 2**16, count)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["votes", "weights"])
def test_innocents_are_named_at_most_at_the_stated_rate(mark, weighted):
    """Familywise error over 300 suspects and 12 accounts at 0.05, for Holm and for max-T."""
    runs, by_holm, by_max_t = 300, 0, 0
    for number in range(runs):
        windows, choices = cells(number)
        weights = np.random.default_rng(number).integers(-40, 60, len(choices)).astype(np.int32)
        given = seen(windows, choices, **({"log_ratio": weights} if weighted else {}))
        found = attribute(given, mark, NAMES[number : number + 12], alpha=0.05, decoys=39)
        by_holm += bool(found.found)
        by_max_t += min(e.max_t_pvalue for e in found.exposures) <= 0.05
    most = binom.ppf(0.999, runs, 0.05)
    assert by_holm <= most
    assert by_max_t <= most
    assert by_max_t >= binom.ppf(0.001, runs, 0.05)  # exact, so not below either


@pytest.mark.slow
def test_innocents_stay_innocent_beside_accounts_that_are_found(mark):
    """A suspect who follows three accounts to the letter: the other nine are named at most at the stated rate."""
    runs, wrongly = 300, 0
    for number in range(runs):
        windows, choices = cells(number, count=2_000)
        names = NAMES[number : number + 12]
        taught = [mark.account(name) for name in names[:3]]
        own = taught[0].owned(windows)
        green = np.stack([account.score(windows, choices) for account in taught]).any(axis=0)
        kept = ~own | green | (np.random.default_rng(number).random(len(choices)) < 0.2)
        found = attribute(seen(windows[kept], choices[kept]), mark, names, alpha=0.05, decoys=0)
        assert set(names[:3]) <= set(found.found)
        wrongly += len(found.found) > 3
    assert wrongly <= binom.ppf(0.999, runs, 0.05)


def test_of_several_statistics_the_best_counts_times_their_number(mark):
    windows, choices = cells(1)
    names, one = NAMES[:20], mark.account(NAMES[3])
    green = one.score(windows, choices)
    heavy, light = (10 + 8 * green).astype(np.int32), (16 - 2 * green).astype(np.int32)
    given = seen(windows, choices, votes=np.ones(400, np.int32), log_ratio=heavy, difference=light)
    found = attribute(given, mark, names, decoys=0)
    assert (found.score, found.statistic) == ("z", "log-ratio, difference")
    assert set(found.exposures[0].totals) == {"log-ratio", "difference"}
    alone = attribute(given, mark, names, statistic="log-ratio", decoys=0)
    other = attribute(given, mark, names, statistic="difference", decoys=0)
    single = [{e.account: e for e in each.exposures} for each in (alone, other)]
    for exposure in found.exposures:
        best = min(each[exposure.account].log10_p for each in single)
        assert exposure.log10_p == pytest.approx(min(0.0, best + math.log10(2)))
        assert exposure.score == max(each[exposure.account].score for each in single)
    assert (alone.score, alone.statistic) == ("z", "log-ratio")
    votes = attribute(given, mark, names, statistic="votes", decoys=0)
    own = one.owned(windows)
    assert votes.cells == own.sum()
    account = next(e for e in votes.exposures if e.account == NAMES[3])
    assert account.totals == {"votes": green[own].sum()}
    assert account.log10_p == pytest.approx(
        one.scheme.null.log10_pvalue(int(green[own].sum()), int(own.sum())), rel=1e-9
    )


def test_epochs_are_hypotheses_of_their_own(mark):
    windows, choices = cells(3, count=3_000)
    account = mark.account("one", epoch="2026-02")
    kept = account.score(windows, choices) == 1
    given = seen(windows[kept], choices[kept])
    found = attribute(given, mark, ["one", "two"], epochs=["2026-01", "2026-02"], decoys=0)
    assert found.found == ["one (2026-02)"]
    assert found.hypotheses == 4
    assert found.exposures[0].kid == account.key.kid
    assert attribute(given, mark, ["one", "two"], decoys=0).found == []


def test_the_null_speaks_of_green_cells_or_of_scores_as_the_scheme_does(binding):
    """A green list's attribution says what it always said; that of graded scores speaks of their law."""
    rng = np.random.default_rng(12)
    windows, choices = rng.integers(0, 256, (400, 1)), rng.integers(0, 256, 400)
    told = {}
    for scheme in (GreenList(window=1), Gumbel(window=1)):
        mark = Watermark(scheme, KEY, binding, accounts=Accounts())
        told[scheme.name] = attribute(seen(windows, choices), mark, NAMES[:2], decoys=0).null
    assert told["greenlist"] == NULL
    assert "is green under it with probability gamma" in told["greenlist"]
    assert "green" not in told["gumbel"]
    assert "the score of each distinct cell" in told["gumbel"]


def test_windows_of_the_shared_key_are_left_out(mark):
    windows, choices = cells(4)
    shared = mark.owned(windows)
    found = attribute(seen(windows, choices), mark, NAMES[:5], decoys=0)
    assert found.cells == (~shared).sum()
    with pytest.raises(TooFewObservations, match=r"0 distinct cells in windows of account keys"):
        attribute(seen(windows[shared], choices[shared]), mark, NAMES[:5])


def test_decoys_are_scored_on_the_same_cells_and_may_be_left_out(mark):
    given = seen(*cells(5))
    found = attribute(given, mark, NAMES[:7], decoys=3)
    assert found.decoys.panels == len(found.decoys.largest) == 3
    keys = list(decoy_keys(bytes.fromhex(given.digest), 21))
    kept = ~mark.owned(given.windows)
    totals = mark.totals(given.windows[kept], given.choices[kept], np.ones(kept.sum(), np.int32), keys)
    z = (totals[:, 0] - kept.sum() / 4) / np.sqrt(kept.sum() * 3 / 16)
    assert found.decoys.largest == pytest.approx(z.reshape(3, 7).max(axis=1).tolist())
    alone = attribute(given, mark, NAMES[:7], decoys=0)
    assert alone.decoys is None
    assert all(e.max_t_pvalue is None for e in alone.exposures)


@pytest.mark.parametrize(
    "names, says",
    [([], "no accounts were named"), (["a", "b", "a"], "'a' is named twice"), (["a", ""], "without blanks")],
)
def test_unusable_names_are_refused(mark, names, says):
    with pytest.raises(AccountsInvalid, match=says):
        attribute(seen(*cells(6)), mark, names)


def test_unusable_options_are_refused(mark):
    given = seen(*cells(6))
    with pytest.raises(MarkInvalid, match="has no accounts"):
        attribute(given, Watermark(GreenList(window=1), KEY), ["a"])
    with pytest.raises(MarkInvalid, match="is the mark of one account"):
        attribute(given, mark.account("a"), ["a"])
    with pytest.raises(AccountsInvalid, match="epochs"):
        attribute(given, mark, ["a"], epochs=["1", "1"])
    for wrong in ({"alpha": 0.0}, {"alpha": 1.0}, {"decoys": -1}, {"statistic": "mass"}):
        with pytest.raises(ValueError, match="found"):
            attribute(given, mark, ["a"], **wrong)


def test_one_account_has_no_runner_up(mark):
    found = attribute(seen(*cells(7)), mark, ["a"], decoys=0)
    assert (found.runner_up, found.gap) == (None, None)


def test_json_is_whole_and_its_digest_covers_it(mark, tmp_path):
    found = attribute(seen(*cells(8)), mark, NAMES[:3], decoys=2)
    found.save(tmp_path / "a.json")
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored == found.to_json()
    assert stored["format"] == "wmark-attribution/1"
    assert Attribution.digest.fget(found) == stored["digest"]
    secrets = [key._export()[0].hex() for key in (KEY, mark.account(NAMES[0]).key)]
    assert not any(secret in (tmp_path / "a.json").read_text() for secret in secrets)


@pytest.fixture
def case(mark, tmp_path, source, monkeypatch, teacher_folder):
    """A folder with a mark, accounts and the answers of a suspect that repeats one account's."""
    mark.save(tmp_path / "ours.wmark")
    (tmp_path / "accounts.txt").write_text("acme\nbeta\ngamma\n")
    ids = source.sample(120, 60, np.random.default_rng(3), tilt=mark.account("beta").tilt, window=1)
    lines = [json.dumps({"id": str(n), "token_ids": row}) for n, row in enumerate(ids.tolist())]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str):
    return CliRunner().invoke(app, ["attribute", "answers.jsonl", "--mark", "ours.wmark", "-q", *args])


def test_the_command_names_the_account_and_shows_the_rest(case):
    done = run("--accounts", "accounts.txt", "--output", "a.json", "--exit-code")
    assert done.exit_code == 10, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "verdict       exposure found to the answers of 1 of 3 accounts: beta (level 0.01 over all)"
    assert lines[4].split()[0] == "beta"
    assert lines[4].endswith("exposure found")
    assert [line.rsplit("  ", 1)[1] for line in lines[5:7]] == ["none found"] * 2
    assert lines[-1].startswith("runner-up")
    assert "attribution written to a.json" in done.stderr
    stored = json.loads((case / "a.json").read_text())
    assert stored["found"] == ["beta"]
    shown = run("--accounts", "accounts.txt", "--json", "--decoys", "0", "--epoch", "2025")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["verdict"].startswith("none found")


def test_the_command_refuses_bad_input_in_words(case):
    (case / "names.json").write_text('["acme", "beta"]')
    Watermark(GreenList(window=1), KEY).save(case / "plain.wmark")
    for args, says in [
        (("--accounts", "names.json"), "looks like JSON"),
        (("--accounts", "missing.txt"), "cannot be read"),
        (("--accounts", "accounts.txt", "--mark", "plain.wmark"), "has no accounts"),
    ]:
        with pytest.raises(WatermarkError, match=says):
            raise run(*args).exception
    assert run("--accounts", "accounts.txt", "--alpha", "2").exit_code == 2


def test_observations_come_from_any_accounts_mark(case, mark):
    ids = [json.loads(line)["token_ids"] for line in (case / "answers.jsonl").read_text().splitlines()]
    outputs = [Output(str(n), token_ids=tuple(row)) for n, row in enumerate(ids)]
    both = [attribute(observe(outputs, mark.account(name)), mark, ["acme", "beta"]) for name in ("beta", "acme")]
    assert both[0].exposures == both[1].exposures


@pytest.mark.slow
def test_an_open_model_is_read_against_its_reference(tmp_path, monkeypatch):
    from tiny import tiny_model

    from watermark.tokenizer import Tokenizer, logits_width

    monkeypatch.chdir(tmp_path)
    suspect, _ = (tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("suspect", "reference")))
    made = Watermark.generate(GreenList(), tokenizer=Tokenizer.load(suspect), logits_width=logits_width(suspect))
    Watermark(made.scheme, KEY, made.binding, accounts=Accounts()).save(tmp_path / "ours.wmark")
    (tmp_path / "accounts.txt").write_text("acme\nbeta\n")
    texts = [f"def f{n}(x, y{n}): return torch.nn.functional.relu(x * {n}) + y{n}" for n in range(30)]
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    done = run("--accounts", "accounts.txt", "--suspect", "suspect", "--reference", "reference", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["statistic"].startswith("difference, ")
    assert "difference" in found["exposures"][0]["totals"]
    assert found["found"] == []
    assert run("--accounts", "accounts.txt", "--suspect", "suspect", "--logprobs").exit_code == 2
