"""Gymnasium environments as a spectator sees them: by the pictures that they draw themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metta_train.envs.config import GymnasiumEnvConfig
from metta_train.envs.gymnasium import GymnasiumEnvironment
from metta_train.envs.stage import Stage, buffers_for


class GymnasiumStage(Stage):
    """Draws nothing unless `pictures` are asked for: some environments need a package for it.

    Raises:
        ValueError: pictures are asked for, and the environment cannot draw them here.
    """

    def __init__(self, config: GymnasiumEnvConfig, *, pictures: bool) -> None:
        self._environment = GymnasiumEnvironment(config, draws=pictures)
        self._draws = pictures
        if pictures:
            self._environment.bind(buffers_for(self._environment.spec))
            self._environment.reset(seed=0)
            self._environment.picture()  # only the attempt shows whether a package is missing

    @property
    def environment(self) -> GymnasiumEnvironment:
        return self._environment

    def image(self) -> NDArray[np.uint8] | None:
        return self._environment.picture() if self._draws else None
