"""Marks with accounts: what each key marks, that the bits are independent, files, and the commands that use them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi2
from typer.testing import CliRunner
from wmark_cli.main import app

from watermark.accounts import Accounts, check_names, read_accounts
from watermark.detect import detect
from watermark.embed.transformers import Embedder
from watermark.errors import AccountsInvalid, MarkInvalid, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.ledger import Record
from watermark.mark import Watermark, load_profile, save_profile
from watermark.observe import observe, served_windows
from watermark.outputs import Output
from watermark.schemes import GreenList

KEY, OTHER, *MORE = decoy_keys(b"accounts", 40)
WINDOWS = np.random.default_rng(5).integers(0, 60_000, (20_000, 2)).astype(np.uint32)
TOKENS = np.random.default_rng(6).integers(0, 60_000, 20_000).astype(np.uint32)


@pytest.fixture(scope="module")
def shared() -> Watermark:
    return Watermark(GreenList(), KEY, accounts=Accounts())


def test_each_window_belongs_to_the_shared_key_or_to_the_account(shared):
    one, two = shared.account("one"), shared.account("two", epoch="2026")
    assert np.array_equal(shared.owned(WINDOWS), ~one.owned(WINDOWS))
    assert np.array_equal(one.owned(WINDOWS), two.owned(WINDOWS))
    assert Watermark(GreenList(), KEY).owned(WINDOWS).all()
    assert one.key == KEY.subkey(tenant="one")
    assert two.key == KEY.subkey(tenant="two", epoch="2026")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_share_is_kept(share):
    windows = np.unique(WINDOWS, axis=0)
    count = int(Accounts(share).routed(windows, KEY).sum())
    assert 0.0005 < binom.cdf(count, len(windows), share) < 0.9995


@pytest.mark.parametrize("window", [1, 2, 5])
def test_routing_bits_and_green_bits_are_independent(window):
    """Pearson's test on the 2 x 2 table of both bits, under many keys, for the shared key and for an account's."""
    rng, statistics = np.random.default_rng(window), []
    windows = rng.integers(0, 2**17, (4_000, window)).astype(np.uint32)
    for key in MORE:
        mark = Watermark(GreenList(window=window, gamma=0.5), key, accounts=Accounts())
        routed = mark.accounts.routed(windows, key)
        for used in (key, mark.account("a").key):
            green = mark.rekeyed(used).score(windows, np.zeros(len(windows))).astype(bool)
            table = np.array([[(routed & green).sum(), (routed & ~green).sum()],
                              [(~routed & green).sum(), (~routed & ~green).sum()]], dtype=float)  # fmt: skip
            expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(windows)
            statistics.append(float(((table - expected) ** 2 / expected).sum()))
    assert chi2.sf(sum(statistics), len(statistics)) > 0.0005
    assert chi2.sf(max(statistics), 1) * len(statistics) > 0.001


def test_routing_depends_on_the_key_and_on_every_id(shared):
    routed = shared.accounts.routed(WINDOWS, KEY)
    for other in (shared.accounts.routed(WINDOWS, OTHER), shared.accounts.routed(WINDOWS[:, ::-1], KEY)):
        assert 0.47 < (routed == other).mean() < 0.53


def test_an_account_tilts_every_window_under_its_own_of_two_keys(shared):
    one, scheme = shared.account("one"), shared.scheme
    logits, contexts = np.random.default_rng(0).standard_normal((64, 500)).astype(np.float32), WINDOWS[:64]
    routed = one.owned(contexts)
    assert 10 < routed.sum() < 54
    tilted = one.tilt(logits, contexts)
    assert np.array_equal(tilted[routed], scheme.tilt(logits, contexts, one.key)[routed])
    assert np.array_equal(tilted[~routed], scheme.tilt(logits, contexts, KEY)[~routed])
    alone = shared.tilt(logits, contexts)
    assert np.array_equal(alone[~routed], tilted[~routed])
    assert np.array_equal(alone[routed], logits[routed])
    tensor = torch.from_numpy(logits)
    for given in (tensor, tensor.double()):
        assert np.allclose(one.tilt(given, torch.from_numpy(contexts.astype(np.int64))).numpy(), tilted)
    assert np.array_equal(tensor.numpy(), logits)


def test_a_suspect_that_learned_from_one_account_shows_both_keys_and_no_other(source, binding):
    """Answers served to one account: its windows lean to its key, the rest to the shared one; others see nothing."""
    shared = Watermark(GreenList(window=1), KEY, binding, accounts=Accounts())
    one = shared.account("one")
    ids = source.sample(200, 60, np.random.default_rng(1), tilt=one.tilt, window=1)
    windows, tokens = ids[:, :-1].reshape(-1, 1), ids[:, 1:].ravel()

    def z(mark: Watermark) -> float:
        cells = np.unique(np.column_stack([windows, tokens])[mark.owned(windows)], axis=0)
        green = mark.score(cells[:, :1], cells[:, 1]).sum()
        return float((green - len(cells) / 4) / np.sqrt(len(cells) * 3 / 16))

    assert z(shared) > 6
    assert z(one) > 6
    assert max(abs(z(shared.account(name))) for name in "abcdefgh") < 4
    assert abs(z(one.rekeyed(KEY))) < 4


def test_receipts_name_the_account_and_the_mark_it_was_drawn_from(shared):
    one, ids = shared.account("one"), [int(i) for i in TOKENS[:400]]
    receipt, alone = Embedder(one).receipt(ids), Embedder(shared).receipt(ids)
    assert (receipt.kid, receipt.shared_kid) == (one.key.kid, KEY.kid)
    assert (alone.kid, alone.shared_kid) == (KEY.kid, None)
    assert receipt.tokens_marked == 398
    assert 150 < alone.tokens_marked < 250
    assert Embedder(Watermark(GreenList(), KEY)).receipt(ids).tokens_marked == 398


def test_files_keep_accounts_and_profiles_show_no_secret(shared, tmp_path):
    for name, mark in (("shared", shared), ("one", shared.account("one"))):
        mark.save(tmp_path / name)
        save_profile(mark, tmp_path / f"{name}.json")
        again = Watermark.load(tmp_path / name)
        assert again == mark
        again.check_profile(load_profile(tmp_path / f"{name}.json"))
        public = (tmp_path / f"{name}.json").read_text()
        for key in (mark.key, KEY):
            assert all(secret.hex() not in public for secret in key._export())
        assert json.loads(public)["format"] == "wmark-profile/2"
    assert load_profile(tmp_path / "one.json")["accounts"]["shared"] == {"kid": KEY.kid, "commitment": KEY.commitment}


def test_a_mark_without_accounts_keeps_the_first_format(tmp_path):
    mark = Watermark(GreenList(), KEY)
    mark.save(tmp_path / "m")
    assert json.loads((tmp_path / "m").read_text())["format"] == "wmark-watermark/1"
    assert "accounts" not in mark.profile()


def changed(path, change) -> None:
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d: d.pop("accounts"), "'accounts' is missing"),
        (lambda d: d["accounts"].update(share=2), "wrong type"),
        (lambda d: d["accounts"]["shared"].update(key="00" * 32), "does not open the commitment"),
        (lambda d: d.update(format="wmark-watermark/3"), "needed is 'wmark-watermark/1' or 'wmark-watermark/2'"),
    ],
)
def test_a_damaged_file_is_refused(shared, tmp_path, change, says):
    shared.account("one").save(tmp_path / "m")
    changed(tmp_path / "m", change)
    with pytest.raises(MarkInvalid, match=says):
        Watermark.load(tmp_path / "m")


def test_accounts_are_drawn_from_a_mark_that_has_them(shared):
    with pytest.raises(MarkInvalid, match="has no accounts"):
        Watermark(GreenList(), KEY).account("one")
    with pytest.raises(MarkInvalid, match="is the mark of one account"):
        shared.account("one").account("two")
    with pytest.raises(ValueError, match="needs `accounts`"):
        dataclasses.replace(shared, accounts=None, shared=OTHER)
    with pytest.raises(ValueError, match=r"between 0\.01 and 0\.99"):
        Accounts(1.0)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "names no account"),
        (b"\n \n", "names no account"),
        (b"one\ntwo\none\n", "'one' is named twice"),
        (b'["one", "two"]', "looks like JSON"),
        (b'{"account": "one"}\n', "looks like JSON"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_an_unusable_account_file_is_refused_in_words(tmp_path, content, says):
    (tmp_path / "accounts.txt").write_bytes(content)
    with pytest.raises(AccountsInvalid, match=says):
        read_accounts(tmp_path / "accounts.txt")


def test_account_files_are_read_as_written(tmp_path):
    (tmp_path / "accounts.txt").write_bytes("\ufeffacme\r\n\r\nÉcole 7\nlast".encode())
    assert read_accounts(tmp_path / "accounts.txt") == ["acme", "École 7", "last"]
    with pytest.raises(AccountsInvalid, match="cannot be read"):
        read_accounts(tmp_path / "none.txt")
    with pytest.raises(AccountsInvalid, match="without blanks"):
        check_names([" acme"])


def run(*args: object) -> object:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_keygen_makes_a_mark_with_accounts_and_draws_one(tmp_path, teacher_folder):
    model, ours, one = ("--model", teacher_folder), tmp_path / "ours.wmark", tmp_path / "one.wmark"
    assert run("keygen", ours, "--accounts", *model, "--window", 1).exit_code == 0
    assert run("keygen", one, "--from", ours, "--tenant", "one", *model, "--window", 1).exit_code == 0
    made, drawn = Watermark.load(ours), Watermark.load(one)
    assert made.accounts == Accounts()
    assert dataclasses.replace(drawn, created=made.created) == made.account("one")
    other = run("keygen", tmp_path / "two.wmark", "--from", ours, "--tenant", "two", *model, "--window", 2)
    assert other.exit_code == 2
    assert "shares windows with its master" in " ".join(other.stderr.split())
    assert run("keygen", tmp_path / "x", "--from", ours, "--tenant", "a", "--accounts", *model).exit_code == 2


def test_generate_serves_an_account_and_the_ledger_names_it(tmp_path):
    from tiny import tiny_model

    model = tiny_model(tmp_path / "model")
    (tmp_path / "ask.txt").write_text("def f\nreturn x\n")
    ours, ask = tmp_path / "ours.wmark", ("--prompts", tmp_path / "ask.txt", "--max-new-tokens", 24, "-q")
    run("keygen", ours, "--accounts", "--model", model)
    given = ("generate", model, "--mark", ours, *ask, "--output", tmp_path / "a.jsonl")
    refused = run(*given)
    assert refused.exit_code == 2
    assert "--account NAME" in " ".join(refused.stderr.split())
    served = run(*given, "--account", "acme", "--epoch", "2026", "--ledger", tmp_path / "l.jsonl")
    assert served.exit_code == 0, served.stderr
    account = Watermark.load(ours).account("acme", epoch="2026")
    kid, shared = account.key.kid, account.shared.kid
    records = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()[1:]]
    assert [(r["kid"], r["receipt"]["kid"], r["receipt"]["shared_kid"]) for r in records] == [(kid, kid, shared)] * 2
    assert run("generate", model, "--unmarked", "--account", "acme", *ask, "--output", tmp_path / "b").exit_code == 2


def test_the_test_of_any_answers_scores_the_shared_windows_alone(shared):
    rows = np.random.default_rng(8).integers(0, 60_000, (40, 60))
    outputs = [Output(str(i), token_ids=tuple(row)) for i, row in enumerate(rows.tolist())]
    for mark in (shared, shared.account("one")):
        seen = observe(outputs, mark)
        assert mark.owned(seen.windows).all()
        assert 0.4 < seen.skipped["window of another key"] / (40 * 58) < 0.6
    evidence = detect(outputs, shared, decoys=99)
    assert any("keyed bit" in note for note in evidence.notes)
    assert not any("keyed bit" in note for note in detect(outputs, Watermark(GreenList(), KEY), decoys=99).notes)


def test_the_shared_mark_takes_ledgers_of_its_accounts_and_no_others(shared):
    one = shared.account("one")
    record = Record(0, "", "a", one.key.kid, {"shared_kid": KEY.kid}, "", "", "", [1, 2, 3, 4], "", "")
    assert len(served_windows([record], shared)) == 3
    assert len(served_windows([record], one)) == 3
    with pytest.raises(ProfileMismatch, match="marked under kid"):
        served_windows([record], shared.account("two"))
