"""Execution of searches: Ray session, workers with a resident model, Ray Tune adapter."""

import os

# Ray reads these when it is imported, so they are set before any module here can import it. Values
# from the caller's environment take precedence.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Only a process that has the session's token can use it.
    "RAY_AUTH_MODE": "token",
    # Turn off Tune's tables and loggers: the ledger and our own table replace them.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # We handle Ctrl-C ourselves: it ends the run at once and leaves it resumable.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Do not hide GPUs from a worker that reserves none; this will become Ray's default.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
