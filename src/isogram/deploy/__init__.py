"""A federation between machines: who takes part, by which keys, and what each of them is handed. docs/deploy.md."""
