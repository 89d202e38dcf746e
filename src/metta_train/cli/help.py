"""`metta-train --help`, and `--help WORD...` for groups, their options and single keys."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from metta_train.cli.compose import compose, resolved
from metta_train.cli.config_source import ConfigSource
from metta_train.run_config import NO_KEYS, RunConfig
from metta_train.specs.config_docs import KeyDoc, documented_keys
from metta_train.specs.config_errors import ConfigError, shown, unknown_key

GROUPS = {
    "agent": "the policy as a graph of components, read from YAML",
    "py_agent": "the policy as a PyTorch module; takes the place of agent",
    "env": "what it plays: MettaGrid, Gymnasium, PettingZoo or your own",
    "trainer": "how long and how: sizes, PPO, schedules, checkpoints, evaluation",
    "wandb": "whether and how it reports to Weights & Biases",
    "experiment": "a named set of choices for all of the above",
    "eval": "sets of environments, for trainer.simulation.suite and metta-eval --suite",
    "sweep": "spaces to search, for metta-sweep",
}
NAMED_BY = {"eval": "metta-eval RUN --suite ", "sweep": "metta-sweep "}
NOT_COMPOSED = tuple(NAMED_BY)  # folders of files that other commands and keys name
EXAMPLES = (
    ("metta-train", "the default: learns env=forage within minutes on a CPU"),
    ("metta-train py_agent=fast run=mine", "the same network by hand; the run is called mine"),
    ("metta-train run=mine trainer.total_timesteps=3_000_000", "goes on with mine from its newest checkpoint"),
    ("metta-train env=gymnasium env.id=CartPole-v1 agent=mlp", "any Gymnasium environment"),
    ("metta-train experiment=original", "the original's task, network and numbers; wants a GPU"),
    (
        "metta-train -m run=lr seed=1,2,3 trainer.optimizer.learning_rate=1e-3,2e-3",
        "six runs in lr/, compared in a table",
    ),
    ("metta-train trainer=smoke wandb=off", "three epochs in seconds, to see that everything works"),
    ("metta-train --dry-run trainer=gpu", "would it fit? plans and builds everything, trains nothing"),
)
OPTIONS = (
    ("-h, --help [WORD...]", "this page, or what a group, an option (trainer=gpu) or a key (trainer.ppo) means"),
    ("--dry-run", "compose, plan and build everything, take one step, say what it costs; nothing is written"),
    ("--cfg job", "print the configuration and stop; with --resolve references are replaced by values"),
    ("-m, --multirun", "one run for each combination of comma-separated values, in <run>/; docs/sweeps.md"),
    ("--config-dir FOLDER", "look for groups of your own there; also in $METTA_TRAIN_SEARCH_PATH and ./conf"),
    ("-sc install=bash", 'tab completion: eval "$(metta-train -sc install=bash)"; also zsh and fish'),
    ("--version", "print the version"),
    ("--hydra-help", "options of Hydra, which composes the configuration"),
)
LARGEST_WIDTH = 110
COMMENT = re.compile(r"#\s?(.*)")


def show_help(words: Sequence[str], source: ConfigSource) -> None:
    """Print the page for these words; overrides among them change the values that it shows.

    Raises:
        ConfigError: a word that is neither a group, nor an option of one, nor a key.
    """
    page = Page(min(LARGEST_WIDTH, shutil.get_terminal_size((100, 24)).columns))
    options = group_options(source)
    asked = [word for word in words if "=" not in word or word.partition("=")[0] in options]
    if not asked:
        _overview(page, options, source)
    else:
        keys = documented_keys(RunConfig, skip=NO_KEYS)
        known = _known(keys, options)
        for word in asked:
            group = word.partition("=")[0]
            if word not in known and group not in options:
                raise ConfigError(f"--help {word}: {unknown_key(word, sorted(known))}")
        overrides = [word for word in words if "=" in word and word.partition("=")[0] not in NOT_COMPOSED]
        composition = compose(overrides, source)
        values = resolved(composition)
        chosen = {group: str(option) for group, option in composition.choices.items()}
        for word in asked:
            _about(page, word.partition("=")[0], options, chosen, keys, values, source)
    sys.stdout.write(page.text())


def group_options(source: ConfigSource) -> dict[str, dict[str, Path]]:
    """Group -> option -> file, metta-train's own and the user's; of equal names the one that is used."""
    found: dict[str, dict[str, Path]] = {}
    for folder in (source.folder, *(own.folder for own in source.own_folders())):
        for file in sorted(folder.glob("*/*.yaml")):
            if file.parent.name != "hydra":
                found.setdefault(file.parent.name, {}).setdefault(file.stem, file)
    order = [*(group for group in GROUPS if group in found), *sorted(set(found) - set(GROUPS))]
    return {group: dict(sorted(found[group].items())) for group in order}


def first_words(file: Path) -> str:
    """What a YAML file says of itself: the sentence in the comment that it begins with; "" where there is none."""
    lines = []
    for line in file.read_text().splitlines():
        comment = COMMENT.fullmatch(line.strip())
        if comment is None:
            break
        if not comment[1].startswith("@package"):
            lines.append(comment[1])
    return re.split(r"(?<=\.)\s", " ".join(lines), maxsplit=1)[0].strip().rstrip(".")


class Page:
    """Text for a terminal: headings in bold where it is one, lines broken at its width."""

    def __init__(self, width: int) -> None:
        self.width = max(40, width)
        self._bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._lines: list[str] = []

    def heading(self, text: str) -> None:
        """Set off from what stands before it."""
        self._lines += ["", f"\033[1m{text}\033[0m" if self._bold else text]

    def paragraph(self, text: str, indent: int = 0) -> None:
        """Broken at spaces; a word that is too long stays whole, so that it can be copied."""
        space = " " * indent
        self._lines += textwrap.wrap(
            text,
            self.width,
            initial_indent=space,
            subsequent_indent=space,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def blank(self) -> None:
        """An empty line."""
        self._lines.append("")

    def entries(self, entries: Sequence[tuple[str, str]], left: int = 24) -> None:
        """Words on the left, what they mean from column `left` on, or below a word that is longer."""
        for word, meaning in entries:
            if not meaning:
                self._lines.append(f"  {word}")
                continue
            if len(word) > left or self.width < left + 30:
                self._lines.append(f"  {word}")
                self.paragraph(meaning, indent=6 if self.width < left + 30 else left + 4)
                continue
            start = len(self._lines)
            self.paragraph(meaning, indent=left + 4)
            self._lines[start] = f"  {word:<{left}}  {self._lines[start].lstrip()}"

    def text(self) -> str:
        """The page."""
        return "\n".join(self._lines).lstrip("\n") + "\n"


def _overview(page: Page, options: Mapping[str, Mapping[str, Path]], source: ConfigSource) -> None:
    defaults = _defaults(source)
    page.paragraph("metta-train trains a recurrent policy with PPO on MettaGrid, Gymnasium or PettingZoo environments.")
    page.heading("Usage: metta-train [OPTION...] [group=option...] [key=value...]")
    page.heading("Groups, with their options; [the default]")
    column = max(len(group) for group in options)
    for group, files in options.items():
        page.entries([(group, GROUPS.get(group, "your own"))], left=column)
        names = [f"[{name}]" if defaults.get(group) == name else name for name in files]
        page.paragraph("  ".join(names), indent=column + 4)
    page.heading("Examples")
    for command, meaning in EXAMPLES:
        page.paragraph(command, indent=2)
        page.paragraph(meaning, indent=6)
    page.heading("Options")
    page.entries(OPTIONS, left=max(len(option) for option, _ in OPTIONS))
    page.heading("More")
    page.entries(
        [
            ("metta-train --help env", "the environments, and every key of the chosen one"),
            ("metta-train --help trainer.ppo", "keys, what they mean, what they need, their values"),
            ("metta-runs", "list, compare, check and plot runs"),
            ("metta-eval, metta-play", "measure a policy; watch it play"),
            ("metta-export, metta-sweep", "take a policy elsewhere; search good values"),
        ],
        left=31,
    )
    page.blank()
    page.paragraph("A run lives in <data_dir>/<run>: $DATA_DIR, else ./train_dir. Every key: docs/config.md")


def _about(
    page: Page,
    word: str,
    options: Mapping[str, Mapping[str, Path]],
    chosen: Mapping[str, str],
    keys: Sequence[KeyDoc],
    values: Mapping[str, object],
    source: ConfigSource,
) -> None:
    if word in options:
        page.heading(f"{word}: {GROUPS.get(word, 'your own')}")
        files = options[word]
        own = {name for name, file in files.items() if not file.is_relative_to(source.folder)}
        page.entries(
            [
                (f"{NAMED_BY.get(word, f'{word}=')}{name}", first_words(file) + (f" ({file})" if name in own else ""))
                for name, file in files.items()
            ]
        )
    below = [doc for doc in keys if (doc.key == word or doc.key.startswith(f"{word}.")) and _fits(doc, values)]
    if not below:
        return
    if word in options:
        page.heading(f"Keys of {word}={chosen[word]}")
    else:
        page.heading("Keys" if len(below) > 1 else "Key")
    for doc in below:
        exists, value = _value(values, doc.key)
        if exists or "<name>" in doc.key:
            page.paragraph(f"{doc.key}={shown(value)}" if exists else doc.key, indent=2)
            page.paragraph(f"{doc.meaning} Needs {doc.needs}.".strip(), indent=6)


def _fits(doc: KeyDoc, values: Mapping[str, object]) -> bool:
    """Whether the key belongs to what is chosen, where several choices have a key of this name."""
    return all(_value(values, key) == (True, value) for key, value in doc.conditions)


def _value(values: Mapping[str, object], key: str) -> tuple[bool, object]:
    node: object = values
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False, None
        node = node[part]
    return True, node


def _known(keys: Sequence[KeyDoc], options: Mapping[str, object]) -> set[str]:
    known = set(options)
    for doc in keys:
        parts = doc.key.split(".")
        known |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return known


def _defaults(source: ConfigSource) -> dict[str, str]:
    """Group -> option, as the root configuration lists them."""
    tree = yaml.safe_load((source.folder / f"{source.name}.yaml").read_text())
    entries = [entry for entry in tree.get("defaults", ()) if isinstance(entry, dict)]
    return {str(group): str(option) for entry in entries for group, option in entry.items()}
