"""What is printed in a terminal: names, paths and texts are those of others, and are not to steer it."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed; other ends of lines; what turns the direction of text; half characters."""


def printable(text: str) -> str:
    r"""Text with all that would steer a terminal, or cannot be written to it, as escapes such as `\x1b`."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


class SafeConsole(Console):
    """Rich's, for text of others: nothing in it is markup or an emoji's code, and it is `printable`.

    A `Text` that is made elsewhere is printed as it is.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string on its way to the terminal: of a line, a table's cell, its title or caption."""
        return super().render_str(printable(text), **options)
