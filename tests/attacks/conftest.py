"""A sealed case, signed and stamped, and copies of its bundle to be attacked."""

from __future__ import annotations

import shutil

import casework
import pytest

from watermark.bundle import bundle, local_authority, sign, timestamp


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return casework.build(tmp_path_factory.mktemp("case"), answers=8, tokens=30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return local_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return casework.signing_key(tmp_path_factory.mktemp("signer") / "signer.pem")


@pytest.fixture(scope="module")
def sealed(case, signer, authority):
    made = bundle(case.file("evidence.json"), case.file("A.bag"), **case.given())
    sign(made, signer)
    timestamp(made, authority)
    return made


@pytest.fixture
def bag(sealed, tmp_path):
    """A copy to be attacked."""
    shutil.copytree(sealed, tmp_path / "C.bag")
    return tmp_path / "C.bag"
