"""`metta-play`: watch a policy play, on the terminal, as a film, as a replay or as a page for the browser."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from metta_train.cli.arguments import HelpText, Parser, add_data_dir, add_version, data_dir_of, reported
from metta_train.cli.checkpoint_policy import load_checkpoint, policy_of
from metta_train.cli.compose import ConfigSource, compose, run_config
from metta_train.cli.config_source import conf_folder
from metta_train.cli.env_overrides import with_env_overrides
from metta_train.cli.exit_codes import CRASH, DONE, exit_code_of
from metta_train.cli.play_outputs import DUMB, Outputs, ReplayPlace, play_unwatched
from metta_train.cli.suites import refuse_other_keys
from metta_train.playback.log import summary
from metta_train.playback.moments import Source
from metta_train.playback.replays import SUFFIX, ReplayFile, read_replay
from metta_train.run_config import RunConfig
from metta_train.specs.config_errors import ConfigError
from metta_train.training.run_catalog import find_reference, read_run_config

if TYPE_CHECKING:
    from metta_train.training.checkpoints import Checkpoint

RANDOM = "random"
FPS = 12
MAX_FPS = 50  # GIF counts in hundredths of a second, and viewers slow down what is faster

DESCRIPTION = """\
Watch a policy play: live on a terminal (play, pause, step, choose an agent, see its action probabilities and value),
or as a film, a MettaGrid replay or a page for the browser. Where there is no terminal, a line is printed per step."""
EPILOG = """\
examples:
  metta-play mine                             the newest good checkpoint on the run's own environment
  metta-play mine:best --greedy               also mine:latest and mine:<agent step>
  metta-play mine env.max_steps=1000          the run's environment, changed
  metta-play mine env=arena                   another one, composed as metta-train does
  metta-play --random env=forage              the random policy
  metta-play mine --gif mine.gif --steps 100  a film; --mp4 needs the extra video
  metta-play mine --replay --html mine.html   into the run's replays/, and as one page for the browser
  metta-play episode.json.z                   a MettaGrid replay, whoever wrote it
  metta-play mine --log --agent 3 | less      a line per step

Keys: space play or pause, left and right step, up and down choose an agent, + and - speed, v what the agent sees,
n next episode, ? help, q quit.

Episode k of a seed has the map that it has in metta-eval. Exit code: 0 done, 2 bad usage or a checkpoint that does
not fit the environment, 3 no usable checkpoint, 5 disk or permissions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    return reported(lambda: _run(_parse(arguments)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="metta-play",
        usage="metta-play RUN[:checkpoint] [env=NAME] [env.key=value ...] [option ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=HelpText,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_version(parser)
    add("words", nargs="*", metavar="RUN[:checkpoint], env.key=value", help="the run, and what to change in its env")
    add("--random", action="store_true", help="the random policy; needs no run")
    add("--greedy", action="store_true", help="the most probable action instead of a sampled one")
    add("--seed", type=int, default=0, metavar="N", help="of maps and sampling, as in metta-eval; default 0")
    add("--episode", type=int, default=1, metavar="N", help="the first episode of the seed to play; default 1")
    add("--episodes", type=int, metavar="N", help="default: one in files and logs, no end on a terminal")
    add("--steps", type=int, metavar="N", help="end every episode after N steps")
    add("--agent", type=int, metavar="N", help="the agent that is told of first; a log tells of it alone")
    add("--log", action="store_true", help="a line per step, also on a terminal")
    add("--gif", type=Path, metavar="FILE", help="write a film")
    add("--mp4", type=Path, metavar="FILE", help="write a film; needs the extra video")
    add("--fps", type=int, default=FPS, metavar="N", help=f"steps per second of films; default {FPS}")
    add("--replay", action="store_true", help="write MettaGrid's .json.z into the run's replays/")
    add("--html", type=Path, metavar="FILE", help="write a page that plays the episode in a browser, offline")
    add("--json", action="store_true", help="print what was played and written as JSON")
    add("--device", metavar="DEVICE", help="cpu, cuda, cuda:<number> or auto; default what the run says")
    add("--config-dir", type=Path, metavar="FOLDER", help="a folder with groups of your own (env/)")
    add_data_dir(parser)
    return parser.parse_intermixed_args(arguments)


def _run(options: argparse.Namespace) -> int:
    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if "=" not in word]
    outputs = _outputs(options)
    _check_options(options, names, overrides, outputs)
    live = not (outputs.any or options.log or options.json) and _is_terminal()
    if names and names[0].endswith(SUFFIX):
        source: Source = read_replay(Path(names[0]))
        written = None
    else:
        source, written = _policy_source(options, names, overrides, outputs, live=live)
    with closing(source):
        cast = source.cast
        if options.agent is not None and options.agent >= cast.num_agents:
            raise ConfigError(
                f"--agent {options.agent}: {cast.environment} has {cast.num_agents}, from 0 to {cast.num_agents - 1}"
            )
        if live:
            return _watch(source, options)
        return play_unwatched(source, options, outputs, written)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", DUMB) != DUMB


# ----- what to play


def _outputs(options: argparse.Namespace) -> Outputs:
    for option, suffix in (("gif", ".gif"), ("mp4", ".mp4"), ("html", ".html")):
        file: Path | None = vars(options)[option]
        if file is not None and file.suffix != suffix:
            raise ConfigError(f"--{option} {file}: needs a file name that ends with {suffix}")
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"--{option} {file}: there is no folder {file.parent}")
    films = tuple(file for file in (options.gif, options.mp4) if file is not None)
    return Outputs(films, options.html, options.replay)


def _check_options(
    options: argparse.Namespace, names: Sequence[str], overrides: Sequence[str], outputs: Outputs
) -> None:
    for name, value, least in (
        ("--seed", options.seed, 0),
        ("--episode", options.episode, 1),
        ("--episodes", options.episodes, 1),
        ("--steps", options.steps, 1),
        ("--agent", options.agent, 0),
        ("--fps", options.fps, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: needs {least} or more")
    if options.fps > MAX_FPS:
        raise ConfigError(f"--fps {options.fps}: needs {MAX_FPS} or less; viewers show no more")
    refuse_other_keys(overrides)
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: one run at a time")
    if not names and not options.random:
        raise ConfigError("which run? metta-play RUN, or --random for the random policy (metta-runs lists runs)")
    if outputs.page is not None and (options.episodes or 1) > 1:
        raise ConfigError(
            f"--html with --episodes {options.episodes}: a page holds one episode; choose it by --episode"
        )
    if names and names[0].endswith(SUFFIX):
        for given, option in (
            (overrides, "env overrides"),
            (options.random, "--random"),
            (options.replay, "--replay"),
            (options.steps and outputs.page, "--steps with --html"),
            ((options.episodes or 1) > 1 or options.episode > 1, "--episode, --episodes"),
        ):
            if given:
                raise ConfigError(f"{names[0]}: a replay is what it is; leave out {option}")


def _policy_source(
    options: argparse.Namespace, names: Sequence[str], overrides: Sequence[str], outputs: Outputs, *, live: bool
) -> tuple[Source, ReplayPlace]:
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise ConfigError(f"--config-dir {options.config_dir}: no such folder")
    extra = None if options.config_dir is None else options.config_dir.expanduser().resolve()
    configs = ConfigSource(conf_folder(), extra_folder=extra)
    reference = find_reference(data_dir_of(options), names[0]) if names else None
    if reference is None:
        config = run_config(compose(overrides, configs))
        checkpoint = None
    else:
        config = with_env_overrides(read_run_config(reference.paths), overrides, configs, reference.paths.run)
        checkpoint = None if options.random else load_checkpoint(reference)
    policy, name = RANDOM, RANDOM
    if checkpoint is not None and reference is not None:
        step = checkpoint.state.progress.agent_step
        policy, name = f"{reference.paths.run}:{step}", f"step-{step:012d}"
    source = _built(config, checkpoint, policy, options, outputs, live=live)
    greedy = "-greedy" if options.greedy else ""
    return source, ReplayPlace(
        Path("replays") if reference is None else reference.paths.replays,
        f"{name}{greedy}-{re.sub('[^A-Za-z0-9_.-]+', '-', source.cast.environment)}-seed-{options.seed}",
    )


def _built(
    config: RunConfig,
    checkpoint: Checkpoint | None,
    name: str,
    options: argparse.Namespace,
    outputs: Outputs,
    *,
    live: bool,
) -> Source:
    from metta_train.envs.build import make_stage
    from metta_train.playback.episodes import Player, PolicySource, cast_of
    from metta_train.policies.uniform import UniformPolicy
    from metta_train.training.resources import choose_device

    try:
        device = choose_device(options.device or config.device)
        try:
            stage = make_stage(config.env, pictures=live or bool(outputs.films))
        except ValueError:
            if not live:
                raise
            stage = make_stage(config.env)
        spec = stage.environment.spec
        policy = UniformPolicy(spec) if checkpoint is None else policy_of(config, spec, checkpoint)
    except (ValueError, RuntimeError) as error:
        if exit_code_of(error) != CRASH:
            raise
        raise ConfigError(str(error)) from error  # the device, the game's files, weights that do not fit
    how = "greedy" if options.greedy else "actions sampled"
    limit = stage.environment.episode_limit
    if options.steps is not None:
        limit = options.steps if limit is None else min(limit, options.steps)
    return PolicySource(
        cast_of(spec, name, limit, how),
        Player(policy.to(device), device, options.greedy, options.seed),
        stage,
        steps=options.steps,
        recording=outputs.recording,
    )


# ----- showing it


def _watch(source: Source, options: argparse.Namespace) -> int:
    from metta_train.playback.keyboard import terminal_taken
    from metta_train.playback.viewer import Viewer

    last = 1 if isinstance(source, ReplayFile) else None
    if options.episodes is not None:
        last = options.episode + options.episodes - 1
    viewer = Viewer(
        source,
        first=options.episode,
        last=last,
        agent=options.agent or 0,
        unicode=(sys.stdout.encoding or "").lower().startswith("utf"),
        colour="NO_COLOR" not in os.environ,
    )
    with terminal_taken() as terminal:
        seen = viewer.run(terminal)
    print(summary(source.cast, viewer.episode, seen))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
