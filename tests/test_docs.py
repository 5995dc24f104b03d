import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tree():
    """Paths that the README's annotated tree shows."""
    folders, shown = [], set()
    for line in re.search(r"```\nsrc/isogram/\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1].splitlines():
        indent, name = re.match(r"([│ ]*)[├└]── (\S+)", line).groups()
        folders = folders[: len(indent) // 4]
        if name.endswith("/"):
            folders.append(name)
        else:
            shown.add("".join(folders) + name)
    return shown


def test_the_tree_of_the_readme_is_the_folder():
    package = ROOT / "src" / "isogram"
    there = {str(p.relative_to(package)) for p in package.rglob("*.py") if p.name != "__init__.py"}
    assert tree() == there


@pytest.mark.parametrize("page", ["method.md", "adapters.md", "anchors.md"])
def test_every_test_that_the_documentation_names_exists(page):
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text()))
    written = {
        name for p in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", p.read_text())
    }
    assert len(named) > 10 and named <= written


def test_every_proposition_names_a_test():
    text = (ROOT / "docs" / "method.md").read_text()
    parts = re.split(r"\*\*P\d+\.", text)[1:]
    assert len(parts) >= 15
    for part in parts:
        assert re.search(r"`test_\w+(\.py)?`", part.split("\n#")[0]), part[:80]


def test_links_between_pages_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_code_of_the_readme_runs():
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_every_generated_table_has_figures_and_no_placeholder_is_left(page):
    text = (ROOT / page).read_text()
    for name, body in re.findall(r"<!-- table ([\w-]+) -->\n(.*?)<!-- end -->", text, re.S):
        lines = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("|")][2:]
        assert any(cell.strip() for line in lines for cell in line[1:]), f"table {name} is empty"
    assert not re.findall(r"^[A-Z]{6,}$", text, re.M)
