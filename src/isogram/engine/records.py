"""Bytes in the engine's messages.

They travel in one ConfigRecord per piece, as the engine moves records one by one; a record without a piece is a reason
why there are no bytes. Arrays inside the bytes are safetensors, so no ArrayRecord and no MetricRecord is needed.
"""

from flwr.app import ConfigRecord, RecordDict

from isogram.engine.frames import MAX_MESSAGE
from isogram.errors import MessageError

PIECE = 4 << 20
"""Bytes of a piece: small enough for the engine's own time limit on each (30 s) over a slow line."""

_REASON = "reason"


def packed(data: bytes) -> RecordDict:
    """The bytes as records.

    Raises:
        MessageError: they are more than `MAX_MESSAGE`.
    """
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"a message has {len(data):,} bytes, the engine carries at most {MAX_MESSAGE:,}")
    starts = range(0, max(len(data), 1), PIECE)
    return RecordDict({str(n): ConfigRecord({"bytes": data[i : i + PIECE]}) for n, i in enumerate(starts)})


def reason(why: str) -> RecordDict:
    """The records of an answer that has no bytes."""
    return RecordDict({_REASON: ConfigRecord({"text": why})})


def unpacked(content: RecordDict) -> bytes | str:
    """The bytes, or the reason why there are none.

    Raises:
        MessageError: the records are not those of `packed` or `reason`, or hold too much.
    """
    records = content.config_records
    if len(records) != len(content):
        raise MessageError("a message of the engine holds records that are not ours")
    if list(records) == [_REASON] and isinstance(why := records[_REASON].get("text"), str):
        return why
    pieces = [records[str(n)].get("bytes") if str(n) in records else None for n in range(len(records))]
    data = [piece for piece in pieces if isinstance(piece, bytes)]
    if not pieces or len(data) != len(pieces):
        raise MessageError("a message of the engine holds records that are not ours")
    if (size := sum(map(len, data))) > MAX_MESSAGE:
        raise MessageError(f"a message has {size:,} bytes, the engine carries at most {MAX_MESSAGE:,}")
    return b"".join(data)
