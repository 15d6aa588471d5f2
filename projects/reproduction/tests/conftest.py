"""Makes the shared fixtures known here."""

from fixtures import *  # noqa: F403
from fixtures import (  # noqa: F401
    _keep_signal_handlers,
    _no_closed_log_streams,
    _one_thread,
    _parse_each_yaml_once,
)
