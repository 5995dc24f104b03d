"""Transformers as settings name them: of the Hugging Face hub, or a folder, which is one machine's own.

An encoder has "hf:" before such a name, a trunk has not.
"""

from pathlib import Path

_HF = "hf:"


def _parts(name: str) -> tuple[str, str]:
    return (_HF, name.removeprefix(_HF)) if name.startswith(_HF) else ("", name)


def is_folder(name: str) -> bool:
    """Whether it is a folder: "./seer", "~/seer", "/srv/seer"; not a model of the hub, nor a built-in one."""
    _, model = _parts(name)
    return model.startswith((".", "~")) or Path(model).is_absolute()


def handed_on(name: str) -> str:
    """As others may know it: "hf:/srv/models/seer" is "hf:./seer", for their own copy; what is no folder stays."""
    before, model = _parts(name)
    return f"{before}./{Path(model).name}" if is_folder(name) else name


def called(name: str, hash: str = "") -> str:
    """As people read it: "hf:seer #01234567 (a local folder)"; of what is no folder the whole name."""
    before, model = _parts(name)
    short, where = (before + Path(model).name, " (a local folder)") if is_folder(name) else (name, "")
    return f"{short}{hash and f' #{hash}'}{where}"


def found_from(name: str, folder: Path) -> str:
    """As it is found: a folder that begins with "." counts from the folder of the file that names it."""
    before, model = _parts(name)
    return before + str((folder / model).resolve()) if model.startswith(".") else name
