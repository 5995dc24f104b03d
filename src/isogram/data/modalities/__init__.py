"""Kinds of data that a silo may hold, each one file here and one line in `KINDS`."""
