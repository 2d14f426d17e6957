"""What a GPU's kernels do of a batch is what the processor does: run on a GPU, or in Triton's interpreter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import WIDTH as TINY
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from watermark import AntiDistill, GreenList, Gumbel, Tournament, ongpu
from watermark.accounts import Accounts
from watermark.detect import detect
from watermark.embed.rows import tilt_each, tilt_rows
from watermark.embed.transformers import Embedder
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.outputs import Output
from watermark.schemes.redrawn import Redrawn

KEYS = list(decoy_keys(b"on gpu tests", 6))
WIDTH = 5_000  # two blocks, the second one short
SPECIAL = (7, 4_999)
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # the interpreter's, of log 0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEMES = [
    GreenList(),
    GreenList(window=5, gamma=0.9, delta=0.7),
    Gumbel(window=1),
    Tournament(),
    Tournament(depth=13, window=8),
    AntiDistill(window=3),
]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels serve tensors in memory too where they are interpreted."""
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        monkeypatch.setattr(ongpu, "there", lambda logits: True)
    ongpu.trusted.cache_clear()


def mark_of(scheme, **changed):
    return replace(Watermark(scheme, KEYS[0], Binding("digest", WIDTH, SPECIAL)), **changed)


def batch(scheme, count=10):
    """Logits and windows: rows cut to few tokens, one with nothing left, special tokens, short windows."""
    rng = np.random.default_rng(scheme.window)
    logits = rng.standard_normal((count, WIDTH)).astype(np.float32) * 3
    logits[1, 40:], logits[2, :4_500], logits[3] = -np.inf, -np.inf, -np.inf
    ids = rng.integers(10, WIDTH - 1, (count, scheme.window))
    ids[4, 0], ids[5, -1], ids[6] = -1, SPECIAL[0], -1
    return logits, ids


def by_processor(monkeypatch, mark, logits, *given, **named):
    with monkeypatch.context() as off:
        off.setenv("WMARK_CUDA", "0")
        return mark.tilt(logits, *given, **named)


def close(scheme, found, expected, rtol=1e-4):
    found, expected = found.cpu().float().numpy(), np.asarray(expected, dtype=np.float32)
    if isinstance(scheme, GreenList):
        assert np.array_equal(found, expected)
        return
    if not isinstance(scheme, Tournament):
        assert np.array_equal(found > -np.inf, expected > -np.inf)
    whole = expected.max(axis=1, keepdims=True, initial=-1e30)  # beyond e^-30 a tournament's chances are noise
    np.testing.assert_allclose(np.exp(found - whole), np.exp(expected - whole), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_batch_is_tilted_as_on_a_processor(monkeypatch, scheme):
    mark, (logits, ids) = mark_of(scheme), batch(scheme)
    met = np.arange(len(ids)) == 7
    expected = by_processor(monkeypatch, mark, logits, ids, met=met)
    given = torch.from_numpy(logits).to(DEVICE)
    before = given.clone()
    assert ongpu.takes(mark, given)
    for contexts, seen in ((ids, met), (torch.from_numpy(ids).to(DEVICE), torch.from_numpy(met).to(DEVICE))):
        found = mark.tilt(given, contexts, met=seen)
        assert found.device == given.device
        close(scheme, found, expected)
    assert torch.equal(given, before)
    assert torch.equal(found[:, list(SPECIAL)], given[:, list(SPECIAL)])
    alone = [4, 5, 6] + [7] * isinstance(scheme, Redrawn)
    assert torch.equal(found[alone], given[alone])
    assert (found[[0, 1, 2, 8, 9]] != given[[0, 1, 2, 8, 9]]).any(1).all()
    assert torch.equal(mark.tilt(given, ids, met=met), found)  # adding up in any order, the same bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scheme", [GreenList(), Gumbel(), Tournament(), AntiDistill()], ids=str)
def test_half_precision_is_rounded_once(monkeypatch, scheme, dtype):
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter has no bfloat16")
    mark, (logits, ids) = mark_of(scheme), batch(scheme)
    given = torch.from_numpy(logits).to(dtype).to(DEVICE)
    expected = by_processor(monkeypatch, mark, given.cpu().float(), ids).to(dtype).float().numpy()
    assert ongpu.takes(mark, given)
    found = mark.tilt(given, ids)
    assert found.dtype == dtype
    close(scheme, found, expected, rtol=0.15)


@pytest.mark.parametrize("scheme", [GreenList(), Tournament(depth=4)], ids=str)
@pytest.mark.parametrize("account", [None, 1], ids=["shared", "account"])
def test_windows_go_to_the_key_that_they_belong_to(monkeypatch, scheme, account):
    mark = mark_of(scheme, accounts=Accounts(0.4))
    if account is not None:
        mark = mark.account("one")
    logits, ids = batch(scheme, 16)
    expected = by_processor(monkeypatch, mark, logits, ids)
    close(scheme, mark.tilt(torch.from_numpy(logits).to(DEVICE), ids), expected)


@pytest.mark.parametrize("accounts", [None, Accounts(0.5)], ids=["keys", "accounts"])
def test_rows_of_many_marks_in_one_call(monkeypatch, accounts):
    if accounts is None:
        marks = [mark_of(GreenList(), key=key) for key in KEYS]
    else:
        whole = mark_of(GreenList(), accounts=accounts)
        marks = [whole.account(name) for name in "abcdef"]
    assert all(ongpu.alike(marks[0], each) for each in marks)
    logits, ids = batch(GreenList(), 12)
    which = np.arange(12) % 6
    found = ongpu.tilt(marks, torch.from_numpy(logits).to(DEVICE), ids, which=which)
    for row in range(12):
        expected = by_processor(monkeypatch, marks[which[row]], logits[row : row + 1], ids[row : row + 1])
        close(GreenList(), found[row : row + 1], expected)


def test_marks_that_differ_in_more_than_their_key_are_not_alike():
    mark = mark_of(GreenList())
    other = mark_of(GreenList(delta=1.0)), mark_of(GreenList(), accounts=Accounts()), mark.rekeyed(KEYS[1])
    assert [ongpu.alike(mark, each) for each in other] == [False, False, True]
    shared = mark_of(GreenList(), accounts=Accounts())
    assert ongpu.alike(shared.account("a"), shared.account("b"))
    assert not ongpu.alike(shared, shared.account("a"))


def test_a_row_that_is_nearly_certain_is_left_alone(monkeypatch):
    mark, (logits, ids) = mark_of(GreenList(gate=1.0)), batch(GreenList())
    logits[8] = -30.0
    logits[8, 100] = 0.0
    given = torch.from_numpy(logits).to(DEVICE)
    found = mark.tilt(given, ids)
    close(GreenList(), found, by_processor(monkeypatch, mark, logits, ids))
    assert torch.equal(found[8], given[8])


def test_antidistillation_reads_a_proxy(monkeypatch):
    scheme = AntiDistill()
    mark, (logits, ids), (proxy, _) = mark_of(scheme), batch(scheme), batch(AntiDistill(window=4))
    expected = by_processor(monkeypatch, mark, logits, ids, proxy=proxy)
    given = torch.from_numpy(logits).to(DEVICE)
    close(scheme, mark.tilt(given, ids, proxy=torch.from_numpy(proxy).to(DEVICE)), expected)


def test_what_stood_before_is_seen_where_the_ids_lie():
    ids = np.random.default_rng(1).integers(0, 4, (50, 12))
    mark = mark_of(Gumbel(window=3))
    found = ongpu.stood_before(torch.from_numpy(ids).to(DEVICE), 3)
    assert found.cpu().tolist() == mark.met(ids).tolist()
    assert 0 < int(found.sum()) < 50
    for steps in (1, 3):
        assert not ongpu.stood_before(torch.from_numpy(ids[:, :steps]).to(DEVICE), 3).any()


@pytest.mark.parametrize("broken", ["wrong", "failing"])
def test_kernels_that_do_not_agree_are_left_alone(monkeypatch, broken):
    mark, (logits, ids) = mark_of(GreenList()), batch(GreenList())
    right = GreenList.tilt_fused
    monkeypatch.setattr(GreenList, "tilt_fused", lambda *given: right(*given) + 1 if broken == "wrong" else 1 / 0)
    with pytest.warns(UserWarning, match="left alone"):
        assert not ongpu.takes(mark, torch.from_numpy(logits).to(DEVICE))
    with pytest.MonkeyPatch.context() as once:
        once.setattr(ongpu, "trusted", lambda *_: False)
        found = mark.tilt(torch.from_numpy(logits).to(DEVICE), ids)
    close(GreenList(), found, by_processor(monkeypatch, mark, logits, ids))


@pytest.mark.parametrize("wrong", ["contexts", "met", "proxy"])
def test_other_numbers_of_rows_are_refused(wrong):
    """A kernel would read on behind them."""
    scheme = AntiDistill() if wrong == "proxy" else Gumbel()
    mark, (logits, ids) = mark_of(scheme), batch(scheme)
    given = torch.from_numpy(logits).to(DEVICE)
    more = {"contexts": {}, "met": {"met": np.zeros(9, dtype=bool)}, "proxy": {"proxy": given[:-1]}}[wrong]
    with pytest.raises(ValueError, match="should have"):
        mark.tilt(given, ids[:-1] if wrong == "contexts" else ids, **more)


def test_they_can_be_switched_off(monkeypatch):
    logits = torch.zeros(1, WIDTH, device=DEVICE)
    monkeypatch.setenv("WMARK_CUDA", "0")
    assert not ongpu.takes(mark_of(GreenList()), logits)
    monkeypatch.delenv("WMARK_CUDA")
    assert not ongpu.takes(mark_of(GreenList()), logits.double())
    assert not ongpu.takes(mark_of(GreenList()), np.zeros((1, WIDTH), dtype=np.float32))


@pytest.mark.parametrize("scheme", [GreenList(), Gumbel(window=3)], ids=str)
@pytest.mark.parametrize("told", ["lists", "tensor"])
def test_each_row_under_a_mark_and_temperature_of_its_own(monkeypatch, scheme, told):
    """What adapters call: marks of accounts, one of another scheme, answers that met their window before."""
    rng = np.random.default_rng(3)
    other = mark_of(GreenList(window=1, delta=3.0), key=KEYS[5])
    marks = [mark_of(scheme, key=KEYS[row % 3]) for row in range(7)] + [other]
    histories = [rng.integers(10, 13, length).tolist() for length in (2, 30, 30, 1, 3, 9, 40, 5)]
    warmth = [1.0, 0.7, 1.0, 1.0, 1.3, 0.7, 0.7, 1.0]
    logits = torch.from_numpy(rng.standard_normal((8, WIDTH)).astype(np.float32)).to(DEVICE)
    given = histories
    if told == "tensor":
        given = torch.tensor([[-1] * (40 - len(row)) + row for row in histories]).to(DEVICE)
    calls = []
    tilt = ongpu.tilt
    monkeypatch.setattr(ongpu, "tilt", lambda *asked, **named: calls.append(len(asked[1])) or tilt(*asked, **named))
    found = tilt_each(marks, given, logits, warmth)
    assert [rows for rows in calls if rows != ongpu._SAMPLE[0]] == [7, 1]
    monkeypatch.setenv("WMARK_CUDA", "0")
    for row, mark in enumerate(marks):
        one = tilt_rows(mark, [histories[row]], logits[row : row + 1].cpu().numpy(), temperature=warmth[row])
        close(mark.scheme if warmth[row] == 1 else Tournament(), found[row : row + 1], one)
    assert (found != logits).any(1).sum() > 3


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("scheme", [GreenList(), Gumbel(), Tournament()], ids=str)
def test_what_a_model_on_a_gpu_said_is_found_on_processors(monkeypatch, tmp_path, scheme):
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path)).eval().to(DEVICE)
    mark = Watermark(scheme, KEYS[0], Binding("tiny", TINY, (0, 1, 2)))
    prompts = torch.randint(3, TINY, (16, 6), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    torch.manual_seed(0)
    served = Embedder(mark).wrap(model.generate)(prompts, do_sample=True, top_k=0, max_new_tokens=80)
    said = [Output(str(row), token_ids=tuple(ids[6:].tolist())) for row, ids in enumerate(served)]
    monkeypatch.setenv("WMARK_CUDA", "0")
    assert detect(said, Watermark(scheme, KEYS[0])).log10_p < -6
    assert detect(said, Watermark(scheme, KEYS[1])).log10_p > -4
