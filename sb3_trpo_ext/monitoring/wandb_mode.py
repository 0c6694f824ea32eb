"""Whether W&B would find credentials, found out without importing it (slow) and without a network."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

# Where wandb looks when no WANDB_BASE_URL and no setting names another server
DEFAULT_BASE_URL = "https://api.wandb.ai"


def must_go_offline() -> bool:
    """
    Look where wandb looks.

    :return: True if no mode is chosen and no key is configured: online, wandb would ask for one or fail
    """
    if "WANDB_MODE" in os.environ:
        return False
    settings = _settings()
    return settings.get("mode", "online") == "online" and not _has_key(settings)


def _has_key(settings: dict[str, str]) -> bool:
    """
    Look where wandb looks, without importing it (slow) and without a network.

    :param settings: wandb's settings
    :return: whether wandb would find credentials for its server
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.get("api_key"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or DEFAULT_BASE_URL).netloc
    for path in _netrc_files():
        try:
            credentials = netrc.netrc(path).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            return False
        return credentials is not None and bool(credentials[2])
    return False


def _netrc_files() -> list[Path]:
    """
    List the netrc files that exist, the one that counts first.

    :return: existing files
    """
    chosen = os.environ.get("NETRC")
    candidates = [Path(chosen)] if chosen else [Path("~/.netrc"), Path("~/_netrc")]
    return [path.expanduser() for path in candidates if path.expanduser().exists()]


def _settings() -> dict[str, str]:
    """
    Read wandb's settings files, the workspace's over the user's.

    :return: settings by name; empty when there are none
    """
    user = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    workspace = Path(os.environ.get("WANDB_DIR", "."), "wandb")
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([user / "settings", workspace / "settings"])
    except configparser.Error:
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}
