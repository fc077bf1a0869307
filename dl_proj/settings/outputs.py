"""Whether a command's results can be written where its settings say, found out before its work starts."""

import errno
from pathlib import Path
from typing import Any

from dl_proj.settings.errors import ConfigError, reason
from my_custom_ai.utils.files import check_writable

_OUTPUTS = {"output_dir": False, "runs_dir": False, "output": True}  # names of settings; whether they mean a file
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def check_outputs(config: Any) -> None:
    """Try to make a nameless file where each of the command's results will go.

    Raises:
        ConfigError: that cannot be done.
    """
    for name, is_file in _OUTPUTS.items():
        path: Path | None = getattr(config, name, None)
        if path is None:
            continue
        try:
            if is_file and path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            check_writable(path.parent if is_file else path)
        except OSError as error:
            raise ConfigError(_refusal(name, path, error)) from None


def refusal_of(config: Any, error: OSError) -> ConfigError | None:
    """What a user is told when one of the folders that settings name is read-only; None: the error is another."""
    if error.errno not in _REFUSED or error.filename is None:
        return None
    folders = {name: getattr(config, name, None) for name in _OUTPUTS}
    folders["data.root"] = getattr(getattr(config, "data", None), "root", None)
    for name, folder in folders.items():
        if folder is not None and Path(error.filename).is_relative_to(folder):
            return ConfigError(_refusal(name, Path(error.filename), error))
    return None


def _refusal(name: str, path: Path, error: OSError) -> str:
    return f"{name}: {path} cannot be written ({reason(error)}); --{name} says where to write"
