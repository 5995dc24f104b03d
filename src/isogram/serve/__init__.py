"""One page in the browser: ask in one modality, see and hear what a site holds in the others."""
