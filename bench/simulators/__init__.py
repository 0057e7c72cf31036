"""Simulators of APNs, FCM (with OAuth), Web Push and the stub's service: the other side of the wire.

They import nothing of the gateway or its providers, so that a mistake there is not repeated here.
"""

from .certificates import Certificates
from .credentials import Credentials
from .script import Rule, Script
from .simulator import SERVICES, Mode, Name, Options, Simulator, start
from .targets import targets

__all__ = [
    "SERVICES",
    "Certificates",
    "Credentials",
    "Mode",
    "Name",
    "Options",
    "Rule",
    "Script",
    "Simulator",
    "start",
    "targets",
]
