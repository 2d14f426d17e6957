"""The watermark file: one file, secret, whole; the profile: public."""

import json
import os
import stat

import pytest

from watermark import GreenList, Key, Tokenizer, Watermark, load_profile, save_profile
from watermark.errors import KeyUnusable, MarkInvalid, ProfileMismatch
from watermark.mark import Binding
from watermark.schemes import scheme_from_json

BOUND = Binding("d" * 64, 400, (0, 1, 2), "somewhere")


@pytest.fixture
def mark():
    return Watermark(GreenList(window=1, gamma=0.5, delta=1.5), Key.generate(), BOUND)


def test_a_mark_survives_its_file(mark, tmp_path):
    mark.save(tmp_path / "m.wmark")
    assert Watermark.load(tmp_path / "m.wmark") == mark


def test_file_is_secret_under_any_umask_and_never_overwritten(mark, tmp_path):
    before = os.umask(0)
    try:
        mark.save(tmp_path / "m.wmark")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.wmark").stat().st_mode) == 0o600
    with pytest.raises(MarkInvalid, match="never overwritten"):
        mark.save(tmp_path / "m.wmark")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_others_can_touch_is_refused(mark, tmp_path, mode):
    path = tmp_path / "m.wmark"
    mark.save(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        Watermark.load(path)


def test_profile_holds_no_secret_and_is_recognised(mark, tmp_path):
    save_profile(mark, tmp_path / "p.json")
    secret, salt = mark.key._export()
    text = (tmp_path / "p.json").read_text()
    assert secret.hex() not in text
    assert salt.hex() not in text
    assert "somewhere" not in text
    mark.check_profile(load_profile(tmp_path / "p.json"))
    with pytest.raises(ProfileMismatch, match="kid, commitment differ"):
        mark.rekeyed(Key.generate()).check_profile(load_profile(tmp_path / "p.json"))


def test_profile_names_the_field_that_differs(mark):
    other = Watermark(GreenList(window=2, gamma=0.5, delta=1.5), mark.key, BOUND, mark.created)
    with pytest.raises(ProfileMismatch, match="scheme differ"):
        other.check_profile(mark.profile())


BROKEN = {
    "not json": (lambda d: "{", "it is not JSON"),
    "no key": (lambda d: d.pop("key") and d, "field 'key' is missing"),
    "short key": (lambda d: d | {"key": "00"}, "a key has 32 bytes"),
    "key of another type": (lambda d: d | {"key": 5}, "wrong type"),
    "another key": (lambda d: d | {"key": "00" * 32}, "does not open the commitment"),
    "other recipe": (lambda d: d | {"prf": "md5"}, "the keyed function 'md5'"),
    "other format": (lambda d: d | {"format": "x"}, "its format is 'x'"),
    "other scheme": (lambda d: d | {"scheme": {"name": "x"}}, "unknown scheme 'x'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_its_key_is_not_shown(mark, tmp_path, name):
    change, says = BROKEN[name]
    path = tmp_path / "m.wmark"
    mark.save(path)
    made = change(json.loads(path.read_text()))
    path.write_text(made if isinstance(made, str) else json.dumps(made))
    with pytest.raises((MarkInvalid, KeyUnusable), match=says) as caught:
        Watermark.load(path)
    assert mark.key._export()[0].hex() not in str(caught.value)


def test_a_profile_is_not_taken_for_the_mark(mark, tmp_path):
    save_profile(mark, tmp_path / "p.json")
    with pytest.raises(MarkInvalid, match="public profile"):
        Watermark.load(tmp_path / "p.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MarkInvalid, match="no watermark file"):
        Watermark.load(tmp_path / "none.wmark")


def test_vocabulary_must_fit_the_logits():
    tokenizer = Tokenizer.load("demo")
    with pytest.raises(ProfileMismatch, match="only 100 columns"):
        Watermark.generate(GreenList(), tokenizer=tokenizer, logits_width=100)
    wider = Watermark.generate(GreenList(), tokenizer=tokenizer, logits_width=tokenizer.size + 64)
    assert wider.binding.logits_width == tokenizer.size + 64


def test_width_of_logits_is_checked(mark):
    with pytest.raises(ProfileMismatch, match="399 columns"):
        mark.check_width(399)


def test_keys_are_asked_for_at_once_where_the_scheme_takes_them_together(mark):
    assert [mark.keys_at_once(cells) for cells in (0, 1_000, 10**7, 10**12)] == [4096, 4096, 429, 256]
    one_by_one = Watermark(scheme_from_json({"name": "vllm-gumbel/single", "version": 1, "parameters": {}}), mark.key)
    assert one_by_one.keys_at_once(9) == 50
