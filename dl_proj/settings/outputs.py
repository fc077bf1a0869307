"""Check that a command's results can be written before its work starts."""

import errno
from pathlib import Path
from typing import Any

from dl_proj.settings.errors import ConfigError, reason
from my_custom_ai.utils.files import check_writable

_OUTPUTS = {"output_dir": False, "runs_dir": False, "output": True}  # setting: whether it names a file
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def check_outputs(config: Any) -> None:
    """Create an unnamed temporary file wherever the command will write, to test the permission.

    Raises:
        ConfigError: it cannot be created.
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
    """Return the error to report if a folder named in the settings is read-only; None for any other error."""
    if error.errno not in _REFUSED or error.filename is None:
        return None
    folders = {name: getattr(config, name, None) for name in _OUTPUTS}
    folders["data.root"] = getattr(getattr(config, "data", None), "root", None)
    for name, folder in folders.items():
        if folder is not None and Path(error.filename).is_relative_to(folder):
            return ConfigError(_refusal(name, Path(error.filename), error))
    return None


def _refusal(name: str, path: Path, error: OSError) -> str:
    return f"{name}: {path} cannot be written ({reason(error)}); set another place with --{name}"
