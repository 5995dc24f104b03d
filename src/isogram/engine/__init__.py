"""The algorithm's messages on Flower: the only part of the package that knows this engine."""
