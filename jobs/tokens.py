"""Tokens of waiting and running jobs: encrypted, with the key outside the database, gone when the job has ended."""

import base64
import hashlib
import os
import time
from pathlib import Path

import sqlalchemy as sa
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from merging.errors import InputError

METADATA = sa.MetaData()
TOKENS = sa.Table(
    "merge_tokens",
    METADATA,
    sa.Column("ref", sa.String(64), primary_key=True),
    sa.Column("ciphertext", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
KEY_LENGTH, KEY_VARIETY = 32, 10  # characters that a key set by hand has at least, and different ones among them
CANARY = "canary"
CANARY_VALUE = "merge-my-models"


class Cipher:
    """Encrypts with the first key, decrypts with any of them (for rotation: `new,old`)."""

    def __init__(self, secret: str) -> None:
        keys = [part.strip() for part in secret.split(",") if part.strip()]
        if not keys:
            raise InputError("MERGE_SECRET_KEY is empty", "it encrypts tokens", "Set it to a long random text")
        self._fernet = MultiFernet([Fernet(_fernet_key(key)) for key in keys])

    def encrypt(self, text: str) -> str:
        """Ciphertext, different each time."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, ciphertext: str) -> str:
        """The text. Raises InputError when the key is another one."""
        try:
            return self._fernet.decrypt(ciphertext.encode()).decode()
        except InvalidToken:
            raise wrong_key() from None

    def __repr__(self) -> str:
        return "Cipher(***)"


def wrong_key() -> InputError:
    """The error of a job store that another key wrote."""
    return InputError(
        "The secret key does not fit the job store",
        "its contents were encrypted with another key",
        "Set MERGE_SECRET_KEY to the key of before (or to `new,old` to change it)",
    )


def _fernet_key(secret: str) -> bytes:
    """A Fernet key as it is, any other text by its hash."""
    try:
        if len(base64.urlsafe_b64decode(secret)) == 32:
            return secret.encode()
    except ValueError:
        pass
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest())


def raise_if_weak(secret: str) -> None:
    """InputError for a key that somebody could guess: too short, or a pattern. Of `new,old` the new one counts."""
    key = secret.partition(",")[0].strip()
    pattern = key in (key + key)[1:-1]  # a shorter text again and again
    if len(key) < KEY_LENGTH or len(set(key)) < KEY_VARIETY or pattern:
        why = "whoever has the database could guess it"
        fix = "Set it to a long random text: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        raise InputError("MERGE_SECRET_KEY is weak", why, fix)


def load_cipher(home: Path, secret_key: SecretStr | None) -> Cipher:
    """The cipher of the setting, or of `<home>/secret.key`, which is made once and readable by this user alone."""
    if secret_key is not None:
        return Cipher(secret_key.get_secret_value())
    path = home / "secret.key"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f".secret.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(Fernet.generate_key())
        try:
            os.link(temporary, path)  # whoever comes first decides
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return Cipher(path.read_text())


class TokenStore:
    """The table of encrypted tokens, in the same database as the jobs."""

    def __init__(self, engine: sa.Engine, cipher: Cipher) -> None:
        self._engine = engine
        self._cipher = cipher

    def check_key(self) -> None:
        """Leave a canary at first use; later raise InputError when the key is not the one that wrote it."""
        if self.get(CANARY) is None:
            self.put(CANARY, CANARY_VALUE)
            self.get(CANARY)

    def put(self, ref: str, token: str) -> None:
        """Keep a token, in place of what was there."""
        row = {"ref": ref, "ciphertext": self._cipher.encrypt(token), "created": time.time()}
        with self._engine.begin() as connection:
            connection.execute(sa.delete(TOKENS).where(TOKENS.c.ref == ref))
            connection.execute(sa.insert(TOKENS).values(**row))

    def get(self, ref: str) -> str | None:
        """The token, None when it is gone."""
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(TOKENS.c.ciphertext).where(TOKENS.c.ref == ref)).scalar()
        return None if found is None else self._cipher.decrypt(found)

    def delete(self, ref: str) -> None:
        """Forget a token."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(TOKENS).where(TOKENS.c.ref == ref))

    def refs(self, older_than: float = 0.0) -> list[str]:
        """The refs of all tokens that have been here for so many seconds."""
        with self._engine.begin() as connection:
            query = sa.select(TOKENS.c.ref).where(TOKENS.c.ref != CANARY, TOKENS.c.created <= time.time() - older_than)
            return list(connection.execute(query).scalars())
