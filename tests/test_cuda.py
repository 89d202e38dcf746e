"""What runs on a GPU: on machines without one by `tests/fakes/pretended_cuda.py`, which refuses what a GPU refuses.

python -m pytest tests/test_cuda.py tests/training/test_optimizers.py tests/ppo -k "real or on_cuda"
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from metta_train import load_config, train
from metta_train.cli import eval as cli_eval
from metta_train.cli import parity as cli_parity
from metta_train.cli import play as cli_play
from tests.fakes.pretended_cuda import DEVICE, pretended_cuda
from tests.test_training_runs import BUSY, SMOKE, metrics, timeless, weights

EPOCHS = 3  # of a run
DECISIONS, GRADIENT_STEPS = 16, 4  # of an epoch
SIZES = ["trainer.batch_size=768", "trainer.minibatch_size=384", "trainer.total_timesteps=2304"]
RUN = [*SMOKE, *BUSY, *SIZES, "trainer.precision=fp32"]
# Relative and absolute, of the first epoch and of those after it: there, Adam has made whole steps of gradients whose
# sign is a matter of rounding.
TOLERANCES = {"fp32": ((1e-3, 1e-6), (2e-2, 1e-3)), "bf16": ((1e-2, 1e-3), (0.1, 1e-2))}
EVERYTHING = [
    "trainer.prioritized_experience_replay.prio_alpha=0.6",
    "trainer.ppo.norm_adv=true",
    "trainer.ppo.target_kl=10",
    "trainer.ppo.l2_reg_loss_coef=0.1",
    "trainer.ppo.l2_init_loss_coef=0.1",
    "trainer.simulation.evaluate_interval=2",
    "trainer.grad_mean_variance_interval=1",
    "agent.analyze_weights_interval=1",
    "agent.clip_range=0.5",
]


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """A training sets torch up for its device."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def run(name: str, *overrides: str, epochs: int | None = None) -> None:
    """In this process, to the end or for so many epochs."""
    training = train(load_config([*RUN, f"run={name}", *overrides]))
    for _ in islice(training, epochs):
        pass
    training.close()


# The fake itself


def test_numbers_of_two_devices_do_not_meet() -> None:
    with pretended_cuda():
        there = torch.ones(3, device=DEVICE)
        assert there.device == torch.device(DEVICE)
        assert (there * 2 + torch.tensor(1.0)).cpu().tolist() == [3.0] * 3
        with pytest.raises(RuntimeError, match="same device"):
            there.add(torch.ones(3))
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
    assert not torch.cuda.is_available()
    assert torch.tensor([1.0], device="cpu").device.type == "cpu"


def test_what_waits_is_noted() -> None:
    with pretended_cuda() as device:
        there = torch.arange(4.0, device=DEVICE)
        there[0] = 5.0
        there.view(2, 2).mul_(2.0)
        torch.ones(4).pin_memory().to(DEVICE, non_blocking=True)
        assert not device.waits
        for wait in (
            lambda: there.cpu(),
            lambda: there.tolist(),
            lambda: there[1].item(),
            lambda: bool(there[1] > 0),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: torch.ones(4).to(DEVICE),
            lambda: there.copy_(torch.ones(4)),
            lambda: torch.equal(there, there),
        ):
            before = len(device.waits)
            wait()
            assert len(device.waits) == before + 1


def test_a_graph_plays_again_what_it_captured_and_captures_nothing_that_waits() -> None:
    with pretended_cuda() as device:
        numbers, factor = torch.ones(3, device=DEVICE), [2.0]
        generator = torch.Generator(DEVICE).manual_seed(0)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            product = (numbers * factor[0]).view(1, 3).expand(2, 3)
            drawn = torch.empty(1, device=DEVICE).exponential_(generator=generator)
        numbers.fill_(10.0)
        factor[0] = 5.0  # Python runs once
        graph.replay()
        assert product.tolist() == [[20.0] * 3] * 2
        first = drawn.item()
        graph.replay()
        assert drawn.item() != first
        assert first == torch.empty(1).exponential_(generator=generator.manual_seed(0)).item()
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(graph):
            numbers.sum().item()
        assert device.capturing is None


def test_autocast_casts_as_on_cuda() -> None:
    layer, lstm = torch.nn.Linear(3, 2), torch.nn.LSTM(2, 2)
    with pretended_cuda():
        layer.to(DEVICE)
        lstm.to(DEVICE)
        inputs = torch.ones(4, 1, 3, device=DEVICE)
        with torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
            outputs = layer(inputs)
            assert outputs.dtype == lstm(outputs)[0].dtype == torch.bfloat16
            assert outputs.softmax(dim=-1).dtype == torch.float32
        outputs.float().sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
        assert layer.weight.grad.tolist() == [[4.0] * 3] * 2
        assert layer(inputs).dtype == torch.float32


def test_what_has_no_deterministic_kernel_is_refused_where_those_are_asked_for() -> None:
    with pretended_cuda():
        floats = torch.ones(3, device=DEVICE)
        torch.use_deterministic_algorithms(True)
        assert floats.bool().cumsum(0).tolist() == [1, 2, 3]
        with pytest.raises(RuntimeError, match="cumsum does not have a deterministic implementation on CUDA"):
            floats.cumsum(0)


# Trainings


@pytest.mark.parametrize("graphs", [False, True], ids=["each operation", "graphs"])
@pytest.mark.parametrize(
    "overrides",
    [
        ["agent=fast"],
        ["py_agent=fast", "trainer.num_workers=1", "trainer.async_factor=2", "trainer.optimizer.type=muon"],
        EVERYTHING,
    ],
    ids=["agent", "py_agent, slices, muon", "everything"],
)
def test_a_training_has_the_numbers_that_it_has_on_the_cpu(data_dir: Path, overrides: list[str], graphs: bool) -> None:
    """The same draws by other kernels; no operation has numbers of two devices, and all are deterministic."""
    run("cpu", "device=cpu", *overrides)
    with pretended_cuda() as device:
        run("cuda", f"device={DEVICE}", f"trainer.cuda_graphs={graphs}", "torch_deterministic=true", *overrides)
    of_cpu, of_cuda = (timeless(metrics(data_dir, name)) for name in ("cpu", "cuda"))
    assert len(of_cuda) == EPOCHS
    for epoch, (ours, theirs) in enumerate(zip(of_cuda, of_cpu, strict=True)):
        rel, absolute = TOLERANCES["fp32"][min(epoch, 1)]
        assert ours == pytest.approx(theirs, rel=rel, abs=absolute)
    slices = 2 if "trainer.async_factor=2" in overrides else 1
    plays = [EPOCHS * DECISIONS] * slices + [EPOCHS * GRADIENT_STEPS]
    assert [graph.plays for graph in device.graphs] == (plays if graphs else [])


@pytest.mark.parametrize("graphs", [False, True], ids=["each operation", "graphs"])
def test_what_a_training_waits_for(graphs: bool) -> None:
    """Actions that the envs need, and some numbers of an epoch; without graphs, the resets of a minibatch too."""
    with pretended_cuda() as device:
        run("waits", f"device={DEVICE}", f"trainer.cuda_graphs={graphs}")
    once = ("design.py", "checkpoint_files.py")  # the weights come, and checkpoints go
    waits = Counter(file for file, _ in device.waits if file not in once)
    assert waits == {
        "rollout.py": EPOCHS * (DECISIONS + 1),
        "nonfinite.py": EPOCHS,
        "update.py": 2 * EPOCHS,
        **({} if graphs else {"recurrence.py": EPOCHS * GRADIENT_STEPS}),
    }


@pytest.mark.parametrize("graphs", [False, True], ids=["each operation", "graphs"])
def test_a_continued_training_ends_with_the_same_bytes(data_dir: Path, cuda: str, graphs: bool) -> None:
    overrides = [f"device={cuda}", f"trainer.cuda_graphs={graphs}", "torch_deterministic=true"]
    run("whole", *overrides)
    run("halves", *overrides, epochs=2)
    run("halves", *overrides)
    assert weights(data_dir, "halves") == weights(data_dir, "whole")
    assert timeless(metrics(data_dir, "halves")) == timeless(metrics(data_dir, "whole"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_have_the_numbers_of_each_operation(
    data_dir: Path, cuda: str, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They draw the same actions, so an epoch is the same up to rounding."""
    for name, graphs in (("each", False), ("graphs", True)):
        run(name, f"device={cuda}", f"trainer.cuda_graphs={graphs}", f"trainer.precision={precision}", epochs=2)
    assert "cannot be recorded" not in caplog.text
    each, graphs = (timeless(metrics(data_dir, name)) for name in ("each", "graphs"))
    for ours, theirs, (rel, absolute) in zip(graphs, each, TOLERANCES[precision], strict=True):
        assert ours == pytest.approx(theirs, rel=rel, abs=absolute)


# The other commands


def test_the_other_commands(cuda: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("other", f"device={cuda}")
    assert cli_eval.main(["other", "--device", cuda, "--episodes", "2", "--json"]) == 0
    assert cli_play.main(["other", "--device", cuda, "--steps", "5", "--log"]) == 0
    out = capsys.readouterr().out
    assert '"episodes"' in out
    assert "episode 1: 5 steps" in out


def test_parity_on_the_device(cuda: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every measurement, two policies of their own on the device."""
    assert cli_parity.main(["agent=fast", "py_agent=fast", "--device", cuda, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == cuda
