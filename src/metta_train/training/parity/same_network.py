"""Whether a run may go on with an agent of the other kind."""

from __future__ import annotations

from metta_train.policies.build import build_policy_from
from metta_train.policies.config import AgentConfig, PyAgentConfig
from metta_train.policies.parity.findings import Section, UnusablePolicyError
from metta_train.policies.parity.forward import Pair, compare_forward
from metta_train.policies.parity.scenarios import give_lively_weights, scenarios
from metta_train.policies.parity.structure import compare_structure, copy_weights, pair_parameters
from metta_train.specs.environment_spec import EnvironmentSpec

ROUNDING = 1e-5  # activations of the same network, computed in another order
SEED = 0


def check_same_network(
    before: AgentConfig | PyAgentConfig,
    now: AgentConfig | PyAgentConfig,
    spec: EnvironmentSpec,
    titles: tuple[str, str],
) -> None:
    """Give both the same weights and observations, on the CPU; takes less than a second.

    Raises:
        ValueError: their parameters or their activations differ, with the first difference.
    """
    try:
        ours, theirs = (build_policy_from(agent, spec, SEED) for agent in (before, now))
        pairing = pair_parameters(ours, theirs, {}, titles)
        structure = compare_structure(ours, theirs, pairing, titles)
        _refuse(structure, titles)
        give_lively_weights(ours, SEED)
        copy_weights(ours, theirs, pairing.names)
        given = scenarios(spec, ours.state_shapes, SEED)
        _refuse(compare_forward(Pair(ours, theirs, pairing.names, titles), given, ROUNDING), titles)
    except UnusablePolicyError as error:
        raise ValueError(f"{titles[1]} cannot continue {titles[0]}: {error}") from error


def _refuse(section: Section, titles: tuple[str, str]) -> None:
    if section.holds:
        return
    first = section.findings[0]
    cause = f"; likely cause: {first.causes[0].text}" if first.causes else ""
    raise ValueError(
        f"{titles[1]} is another network than {titles[0]}: {first.message}{cause}. "
        "metta-parity says more; use the old agent, or another run name"
    )
