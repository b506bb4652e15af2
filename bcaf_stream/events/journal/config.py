"""Where a journal is kept, how safely, and for how long."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from bcaf_stream.config import Config, load_config

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})  # parameters of libpq


def _without_password(url: str) -> str:
    if not url.startswith((SQLITE, *POSTGRES)):
        raise ValueError("must be sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    if url.startswith(POSTGRES):
        try:
            parts = urlsplit(url)
            secret = parts.password is not None or not _SECRETS.isdisjoint(parse_qs(parts.query))
        except ValueError:
            raise ValueError("must be postgresql://USER@HOST/DATABASE") from None
        if secret:
            ways = "password_file, PGPASSFILE or PGPASSWORD"
            raise ValueError(f"a password here would be seen by others: leave it out, and give it by {ways}")
    elif url == SQLITE:
        raise ValueError("must name a file: sqlite:///FILE")
    return url


class JournalConfig(Config):
    """`url` says where it is: `sqlite:///FILE`, as `path` does, or `postgresql://USER@HOST/DATABASE`.

    `durability` is what an append survives: `power_loss` syncs the disk each time, `crash` does not. With `crash`,
    a power cut can take the last appends with it, and their offsets are then given again. `busy_ms` is how long an
    append waits for another process that is writing. Events are deleted when they are older than `keep_days` or
    when all together take more than `keep_mb`, the oldest first (None: never). After a crash the whole file is
    checked if it is not larger than `check_mb`.

    On PostgreSQL the tables are in the schema `namespace`, so that one database may keep several journals. The
    password is the one line of `password_file`, or comes by libpq's own ways (PGPASSFILE, PGPASSWORD). A database
    that has not connected or answered within `timeout_s` counts as down; another hub may take the journal from one
    that was silent for `lease_s`. With `crash`, it is the server's own `synchronous_commit` that counts.
    """

    path: Path = Path("bcaf-events.sqlite3")
    url: Annotated[str, AfterValidator(_without_password)] | None = None
    durability: Literal["power_loss", "crash"] = "power_loss"
    busy_ms: int = Field(default=5000, ge=0)
    keep_days: float | None = Field(default=None, gt=0)
    keep_mb: float | None = Field(default=None, gt=0)
    check_mb: float = Field(default=512.0, ge=0)
    namespace: str = Field(default="bcaf", pattern="^[a-z_][a-z0-9_]{0,62}$")
    password_file: Path | None = None
    timeout_s: float = Field(default=10.0, gt=0)
    lease_s: float = Field(default=10.0, ge=5)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and self.path != type(self).model_fields["path"].default:
            raise ValueError("give path or url, not both")
        return self

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a journal on PostgreSQL."""
        if self.url is None:
            return self.path
        return Path(self.url.removeprefix(SQLITE)) if self.url.startswith(SQLITE) else None

    @property
    def sound_folder(self) -> Path | None:
        """Where evidence sound of the journal's calls is kept, if any is; None for a journal on PostgreSQL."""
        return self.file and self.file.with_name(f"{self.file.name}.sound")


def sound_of(folder: Path, call: str) -> Path:
    """A call's own folder in that one; its name says nothing of the call."""
    return folder / hashlib.sha256(call.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def journal_at(place: str) -> JournalConfig:
    """The journal of a command line: a file, or a URL, which may say `namespace` beside libpq's own parameters.

    Raises:
        ConfigError: a URL of another kind, or one with a password.
    """
    if "://" not in place:
        return JournalConfig(path=Path(place))
    url, _, query = place.partition("?")
    parameters = query.split("&") if query else []
    named = [each.removeprefix("namespace=") for each in parameters if each.startswith("namespace=")]
    kept = "&".join(each for each in parameters if not each.startswith("namespace="))
    fields = {"url": f"{url}?{kept}" if kept else url, **({"namespace": named[-1]} if named else {})}
    return load_config(JournalConfig, None, [f"{key}={json.dumps(value)}" for key, value in fields.items()])
