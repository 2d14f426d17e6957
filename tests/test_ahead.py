"""Batches made ready in a second thread: the same cells, the same first error, and objects left out of collection."""

import gc
import threading

import pytest

from watermark import prf
from watermark.errors import OutputsInvalid, ProfileMismatch
from watermark.keys import decoy_keys
from watermark.mark import Binding, Watermark
from watermark.observe import observe, text
from watermark.observe.ahead import ahead, settled
from watermark.outputs import Output
from watermark.schemes import GreenList
from watermark.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load("demo")
BINDING = Binding(TOKENIZER.digest, TOKENIZER.size, TOKENIZER.special_ids, "demo")
MARK = Watermark(GreenList(window=1), next(iter(decoy_keys(b"ahead", 1))), BINDING)
OTHERS = tuple(TOKENIZER.encode(["Whoever wrote these words wrote nothing that was said."])[0])
OUTPUTS = [
    Output(str(n), text=f"The {n} answers of {n * n} people, \u201cnot {n + 7} of them\u201d.", prompt=f"Say {n}.")
    for n in range(90)
]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(text, "BATCH", 16)


def _read(monkeypatch, threads: int, outputs=OUTPUTS, **options):
    monkeypatch.setattr(prf, "threads", lambda: threads)
    return observe(outputs, MARK, tokenizer=TOKENIZER, **options)


def test_a_second_thread_makes_the_same_cells(monkeypatch):
    makers, told = [], []
    work = text.Reader.prepared
    monkeypatch.setattr(
        text.Reader, "prepared", lambda self, batch: (makers.append(threading.get_ident()), work(self, batch))[1]
    )
    alone = _read(monkeypatch, 1)
    assert set(makers) == {threading.get_ident()}
    makers.clear()
    beside = _read(monkeypatch, 2, progress=told.append)
    assert len(set(makers)) == 1
    assert threading.get_ident() not in makers
    assert (beside.digest, beside.names, beside.skipped, beside.restored) == (
        alone.digest,
        alone.names,
        alone.skipped,
        alone.restored,
    )
    assert alone.restored > 0
    assert told == [16, 32, 48, 64, 80, 90]


def test_the_source_stays_in_the_thread_of_the_caller(monkeypatch):
    def source():
        for output in OUTPUTS:
            assert threading.current_thread() is threading.main_thread()
            yield output

    assert len(_read(monkeypatch, 2, source()).names) == len(OUTPUTS)


def _broken(bad_batch: int):
    """Outputs of which one batch spells another text, and of which the next cannot be read."""
    for n, output in enumerate(OUTPUTS):
        if n == 16 * (bad_batch + 1) + 3:
            raise OutputsInvalid("line 99: not a JSON object")
        wrong = n // 16 == bad_batch
        yield Output(output.id, text="quite another story", token_ids=OTHERS) if wrong else output


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_is_the_same_one(monkeypatch, threads):
    read = []
    with pytest.raises(ProfileMismatch, match="do not spell"):
        _read(monkeypatch, threads, _broken(2), progress=read.append)
    assert read == [16, 32]
    read.clear()
    with pytest.raises(OutputsInvalid, match="line 99"):
        _read(monkeypatch, threads, _cut_short(40), progress=read.append)
    assert read == [16, 32]


def _cut_short(count: int):
    yield from OUTPUTS[:count]
    raise OutputsInvalid("line 99: not a JSON object")


def test_one_who_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    made = ahead(range(100), lambda n: n * n)
    assert [next(made) for _ in range(5)] == [0, 1, 4, 9, 16]
    made.close()
    assert threading.active_count() == before


def test_what_is_there_is_left_out_of_collection_only_meanwhile():
    assert gc.get_freeze_count() == 0
    with settled():
        assert gc.get_freeze_count() > 1000
        with settled():
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_the_caller_left_out_stays_out():
    gc.freeze()
    try:
        with settled():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_an_error_ends_it():
    with pytest.raises(KeyError), settled():
        raise KeyError
    assert gc.get_freeze_count() == 0
