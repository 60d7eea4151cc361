"""Many evaluators on many machines, over days, for a person at a terminal."""

import os
import sys

# Ray reads these when it is imported, so they are set before any module here can import it. What
# the caller's environment says goes first.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Tune's tables and loggers; the ledger and our own table are what a person sees.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is ours: it ends the run at once and leaves it resumable.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A worker that reserves no GPU keeps the visibility it was given, which Ray's next default is.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
# Nobody drives a session of ours without its token. Where Ray was imported before, this process may
# begin a session of its own, whose processes must not expect a token that it does not have.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
