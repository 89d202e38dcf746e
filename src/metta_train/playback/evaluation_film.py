"""A film of an evaluation while training: the first episode of the fixed set."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from metta_train.envs.build import make_stage
from metta_train.envs.config import EnvConfig
from metta_train.playback.episodes import Player, PolicySource, cast_of
from metta_train.playback.films import Filming, open_film
from metta_train.reporting.storage import storage_errors

FPS = 10
MAX_STEPS = 600  # a minute


def require_pictures(config: EnvConfig) -> None:
    """Raise a ValueError if nothing of this environment can be filmed."""
    make_stage(config, pictures=True).environment.close()


def film_episode(
    player: Player, config: EnvConfig, *, title: str, stem: Path, check: Callable[[], None] = lambda: None
) -> Path:
    """Play and film the episode that `metta-eval --episodes 1` plays; its first minute if it is long.

    Args:
        player: who plays.
        config: the environment.
        title: of the player, in the caption.
        stem: the file without its suffix: .mp4 where an encoder is installed, else .gif.
        check: called before every step; what it raises abandons the film.

    Returns:
        The file.

    Raises:
        StorageError: it cannot be written.
    """
    file = stem.with_suffix(".mp4" if importlib.util.find_spec("imageio_ffmpeg") else ".gif")
    with storage_errors("write", file):
        file.parent.mkdir(exist_ok=True)
    stage = make_stage(config, pictures=True)
    cast = cast_of(stage.environment.spec, title, None, "greedy" if player.greedy else "actions sampled")
    source = PolicySource(cast, player, stage, steps=MAX_STEPS, recording=False)
    try:
        with Filming(cast, [open_film(file, FPS)]) as filming:
            for moment in source.moments(1):
                check()
                filming.add(1, moment)
            filming.finish()
    finally:
        source.close()
    return file
