"""Play bundles in MettaGrid alone, where metta_train cannot be imported; what happened is printed as JSON.

Arguments: a MettaGridConfig as JSON, the seed of the simulator, a folder for MettaGrid's cache, bundles by URI.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from mettagrid import MettaGridConfig
from mettagrid.policy import prepare_policy_spec
from mettagrid.policy.loader import initialize_or_load_policy
from mettagrid.policy.policy_env_interface import PolicyEnvInterface
from mettagrid.runner.rollout import single_episode_rollout
from mettagrid.simulator import simulator
from mettagrid.types import Action
from mettagrid.util.uri_resolvers.schemes import policy_spec_from_uri


class NoMettaTrain(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "metta_train":
            raise ImportError("a bundle stands alone")
        return None


def main(config: str, seed: str, cache: str, *bundles: str) -> None:
    sys.meta_path.insert(0, NoMettaTrain())
    prepare_policy_spec.DEFAULT_POLICY_CACHE_DIR = Path(cache)
    game = MettaGridConfig.model_validate_json(Path(config).read_text())
    taken: list[str] = []

    class Watched(simulator.SimulationAgent):
        def set_action(self, action: Action | str) -> None:
            taken.append(action if isinstance(action, str) else action.name)
            super().set_action(action)

    simulator.SimulationAgent = Watched
    played = []
    for bundle in bundles:
        taken.clear()
        spec = policy_spec_from_uri(bundle)
        policy = initialize_or_load_policy(PolicyEnvInterface.from_mg_cfg(game), spec)
        results, _ = single_episode_rollout(
            [policy],
            [0] * game.game.num_agents,
            game,
            seed=int(seed),
            max_action_time_ms=10_000,
            render_mode="none",
            autostart=True,
            capture_replay=False,
        )
        played.append(
            {
                "actions": list(taken),
                "rewards": [float(reward) for reward in results.rewards],
                "steps": results.steps,
                "timeouts": sum(results.action_timeouts),
                "class": type(policy).__name__,
            }
        )
    print(json.dumps(played))


if __name__ == "__main__":
    main(*sys.argv[1:])
