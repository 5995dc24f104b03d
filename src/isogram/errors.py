"""The one family of errors a user meets: what is wrong, where, and what to do about it.

`exit_code` is the status with which the command ends (`isogram --help` lists them).
"""


class IsogramError(Exception):
    """Base of every error raised on purpose; the command prints it without a traceback.

    Holds one problem or all that were found at once, each a sentence of its own.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(IsogramError):
    """A setting is unknown, contradicts another one, or does not fit the data."""


class DataError(IsogramError):
    """Data are absent, corrupt, or do not have the shape that is declared."""


class AnchorError(DataError):
    """The anchor set cannot carry the alignment: too few, disconnected, or not the same at every node."""


class MessageError(IsogramError):
    """A message is malformed, or belongs to another round, anchor set or model."""


class HeldOutError(IsogramError):
    """Held-out rows were read outside evaluation: the run's figures would be worthless."""


class RunError(IsogramError):
    """A run folder belongs to another configuration or process, is damaged, or is there already."""


class RefusedError(IsogramError):
    """The doctor finds that these silos should not be aligned on these anchors; `--force` goes on all the same."""

    exit_code = 3


class StorageError(IsogramError):
    """The machine, not the input, is in the way: a full disk, a folder without permission, no network."""

    exit_code = 4


class FederationError(IsogramError):
    """Nodes elsewhere do not answer, or too few of them; what is complete stays."""

    exit_code = 4


class EgressError(IsogramError):
    """A node keeps to itself what it was to send: not on its list, not in its shape, a private row, or refused."""

    exit_code = 5
