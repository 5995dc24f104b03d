"""What leaks: attacks on the messages of a run, beside the same attacks on what others send. docs/privacy.md."""

from isogram.audit.suite import audit, audit_run

__all__ = ["audit", "audit_run"]
