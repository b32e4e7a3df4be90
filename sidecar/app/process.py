"""What every process does that serves: `sidecar run`, and the workers that it starts."""

from __future__ import annotations

import asyncio
import gc
import resource
import warnings
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.utils import CryptographyDeprecationWarning

from sidecar.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Two directions of 4096 connections, each with one upstream, and some more. The usual soft limit is 1024.
DESCRIPTORS = 20_000


class RunCode(StrEnum):
    """What is wrong with the command line."""

    NO_UVLOOP = "uvloop_missing"


def prepare_process() -> None:
    """Does what every process does that serves, before anything else."""
    # The library warns about odd certificates on standard error; a peer could fill a log with that. We refuse and count.
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    _raise_descriptor_limit()


def _raise_descriptor_limit() -> None:
    """Takes as many descriptors as the system allows us, up to what the default limits can use (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def spare_collector() -> None:
    """Takes what the start has made out of the collector's rounds, and makes these rarer.

    Connections and requests are freed by their reference counts; what is left to the collector is tasks that failed.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Finds the event loop: uvloop where it is installed, unless the command line says otherwise.

    Raises:
        ConfigurationError: ``uvloop`` was asked for and is not installed.

    """
    if choice == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop  # noqa: PLC0415 - not everywhere, and not for the other choices
    except ImportError:
        if choice == "uvloop":
            raise ConfigurationError(
                RunCode.NO_UVLOOP, "uvloop is not installed", hint="pip install uvloop, or --loop asyncio"
            ) from None
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
