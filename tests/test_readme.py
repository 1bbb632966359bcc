"""What README and docs say exists does: commands, options, names, links."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import deltagram.jobs
import deltagram.papers
from deltagram.cli import app
from deltagram.delta.methods import METHODS
from deltagram.delta.values import VALUES

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/deltas.md",
    "docs/serving.md",
    "docs/layers.md",
    "docs/rescaling.md",
    "docs/merging.md",
    "docs/training.md",
    "docs/callback.md",
    "docs/batches.md",
    "docs/losses.md",
    "docs/contrastive.md",
    "docs/tokens.md",
    "docs/measuring.md",
    "docs/measuring-lm.md",
    "docs/predicting.md",
    "docs/nexttoken.md",
    "docs/prototypes.md",
    "docs/diagnosing.md",
    "docs/selection.md",
    "docs/papers.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/RESULTS.md",
    "docs/MATH.md",
    "docs/lora.md",
    "docs/library.md",
    "docs/server.md",
]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def code_lines(page: str) -> list[str]:
    """Lines of the fenced blocks that name no language."""
    found, fence = [], None
    for line in (ROOT / page).read_text().splitlines():
        if line.startswith("```"):
            fence = line if fence is None else None
        elif fence == "```":
            found.append(line.split("#")[0].strip())
    return found


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    for line in code_lines(page):
        words = shlex.split(line.replace("|", " "))
        if words[:1] != ["deltagram"] or words[1] == "COMMAND":
            continue
        command = COMMANDS[words[1]]
        if hasattr(command, "commands"):
            command = command.commands[words[2]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[2:]:
            assert not word.startswith("--") or word in known, f"{page}: {line}: {word}"


@pytest.mark.parametrize("page", [*PAGES, "docs/FORMAT.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_every_command_is_a_job_the_papers_or_the_server_and_in_the_readme() -> None:
    jobs = {
        f"{name}_{part}" if part else name
        for name, command in COMMANDS.items()
        for part in getattr(command, "commands", [""])
    }
    assert jobs == {*deltagram.jobs.__all__, deltagram.papers.reproduce.__name__, "serve"}
    readme = (ROOT / "README.md").read_text()
    assert all(name in readme for name in COMMANDS)


def test_the_help_names_all_methods_and_values() -> None:
    page = (ROOT / "docs" / "deltas.md").read_text()
    options = {parameter.name: parameter.help for parameter in COMMANDS["prune"].params}
    assert all(name in options["method"] for name in METHODS)
    assert all(f"`{name}`" in page for name in METHODS)
    for name in VALUES:
        if name[0] not in "34567" and not name.startswith("codebook"):
            assert name in page
            assert name in options["values"]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`make ([a-z]+)`", (ROOT / page).read_text()):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


def test_the_project_names_no_machine() -> None:
    """No path of a machine in any file that is kept."""
    kept = [path for folder in ("src", "docs", "benchmarks") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [*kept, *(ROOT / page for page in PAGES), ROOT / "Makefile"]:
        if path.suffix in (".py", ".md", ".toml", ""):
            assert not re.search(r"/(home|root|work|Users)/", path.read_text("utf-8")), path
