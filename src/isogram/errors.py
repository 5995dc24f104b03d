"""The one family of errors a user meets: what is wrong, where, and what to do about it."""


class IsogramError(Exception):
    """Base of every error raised on purpose; the command prints it without a traceback."""


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
