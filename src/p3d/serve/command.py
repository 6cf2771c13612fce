"""The command `p3d serve`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from p3d.errors import UserError
from p3d.serve.options import ServeOptions
from p3d.system.device import set_up_cpu
from p3d.system.resources import raise_file_limit
from p3d.system.spelling import describe_unread

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def run(options: ServeOptions) -> int:
    """Serve until a signal asks to stop; return 0 if all accepted requests were answered.

    Raises:
        UserError: An option is out of range, the weights cannot be read, or the port is taken.
    """
    options.check()
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is not installed; install it: pip install 'p3d[serve]'")
    token = None if options.token_file is None else read_token(options.token_file)
    raise_file_limit()
    set_up_cpu(options.compute.threads)
    from p3d.serve.server import serve  # needs the packages of the extra

    return serve(options, token)


def read_token(path: Path) -> str:
    """Return the token in the first line of a file.

    Raises:
        UserError: The file cannot be read, or the line is empty or not printable ASCII.
    """
    try:
        token = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise UserError(f"--token-file {path}: {describe_unread(path, error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--token-file {path}: is not UTF-8 text; save it as UTF-8") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"--token-file {path}: its first line is no token; write one of printable characters "
            "without spaces, such as from: openssl rand -hex 32"
        )
    return token
