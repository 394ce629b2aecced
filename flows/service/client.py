"""Prefect's settings, and whether a server that they name answers. Imports Prefect when it is asked for something."""

import io
import os
import re
import tomllib
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from urllib.parse import urlsplit

from flows.service.server import ServerError

_REACH = 5.0
"""Seconds for a server that the user has named to answer a request."""


def import_prefect() -> None:
    """Import Prefect, which reads the user's settings as it is imported.

    Raises:
        ServerError: they cannot be read.
    """
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    path = os.environ.get("PREFECT_PROFILES_PATH") or f"{home}/profiles.toml"
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # what it says of them is in our error
        warnings.simplefilter("ignore", UserWarning)  # of a home that cannot be written
        try:
            if Path(path).expanduser().exists():
                tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))  # Prefect would tell it in 50 lines
            import prefect.context  # noqa: F401 - it is what reads them all
        except Exception as error:  # of a folder, of TOML, of pydantic
            raise ServerError(f"Prefect's settings ({path}, PREFECT_...) cannot be read: {shorten(error)}") from error


def find_named_url() -> str | None:
    """The API that the user has named, by PREFECT_API_URL or by a profile of Prefect's.

    Raises:
        ServerError: Prefect's settings cannot be read.
    """
    import_prefect()

    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def check_server(url: str) -> None:
    """ServerError unless a Prefect server that this client can talk to answers there, within seconds."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    problem: BaseException | None
    try:
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": _REACH}, sync_client=True) as client,  # asks for the version
        ):
            problem = client.api_healthcheck()
    except Exception as error:  # noqa: BLE001 - of httpx, of a proxy, of Prefect: the reason is told
        problem = error
    if problem is not None:
        reason = shorten(problem.__cause__ or problem)
        raise ServerError(f"Prefect's server at {_without_secrets(url)} does not answer: {reason}") from problem


def shorten(error: BaseException) -> str:
    """An error as a part of one line."""
    text = " ".join(re.split(r"[\s-]*For (?:more|further) information", str(error))[0].split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
