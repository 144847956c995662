"""Tokens are encrypted, found again with the right key, and refused with another."""

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobs.store import Store
from jobs.tokens import Cipher, load_cipher
from merging.errors import InputError
from settings import Settings
from tests.jobs.processes import TOKEN


def test_a_token_comes_back_until_it_is_deleted(tmp_path: Path) -> None:
    """Put, get, replace, delete."""
    tokens = Store(Settings(home=tmp_path)).tokens
    tokens.put("job1", "first")
    tokens.put("job1", TOKEN)
    assert tokens.get("job1") == TOKEN
    assert tokens.refs() == ["job1"]
    assert tokens.refs(older_than=60) == []
    tokens.delete("job1")
    assert tokens.get("job1") is None


def test_the_key_file_is_made_once_and_is_private(tmp_path: Path) -> None:
    """A second process reads the key of the first."""
    text = load_cipher(tmp_path, None).encrypt("x")
    assert load_cipher(tmp_path, None).decrypt(text) == "x"
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


def test_another_key_is_refused_with_one_sentence(tmp_path: Path) -> None:
    """The store says so when it is opened, not when a job fails."""
    Store(Settings(home=tmp_path, secret_key=SecretStr("one")))
    with pytest.raises(InputError) as caught:
        Store(Settings(home=tmp_path, secret_key=SecretStr("two")))
    assert str(caught.value) == (
        "The secret key does not fit the job store: its contents were encrypted with another key. "
        "Set MERGE_SECRET_KEY to the key of before (or to `new,old` to change it)."
    )
    Store(Settings(home=tmp_path, secret_key=SecretStr("two,one")))


def test_a_cipher_shows_no_key() -> None:
    """Neither does its ciphertext repeat itself."""
    cipher = Cipher("very secret")
    assert "very" not in repr(cipher)
    assert cipher.encrypt("x") != cipher.encrypt("x")
