"""What Torch-Pruning does with the networks of the study beside it: it runs where PyTorch is, and never imports Keras.

    PYTHON -m benchmarks.studies.torch_side FOLDER

reads `network.json`, a list of operations, `weights.npz` and `examples.npz` from the folder, and writes `found.npz` and
`times.json` there; with `--fine-tune RECIPE` it cuts, trains on `train.npz` and writes accuracies.
`benchmarks.studies.torch_pruning` calls it.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import command_parser

NETWORKS = ("resnet50", "mobilenet_v2", "densenet121")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = command_parser(__file__, __doc__)
    parser.add_argument("folder", type=Path, help="the folder that benchmarks.studies.torch_pruning has written")
    parser.add_argument("--fine-tune", type=json.loads, metavar="RECIPE", help="share, seed, epochs and more, as JSON")
    options = parser.parse_args(arguments)
    folder = options.folder
    import numpy as np
    import torch

    torch.set_num_threads(1)
    operations = json.loads((folder / "network.json").read_text())
    with np.load(folder / "weights.npz") as weights, np.load(folder / "examples.npz") as examples:
        weights, x, y = dict(weights), torch.tensor(examples["x"]).permute(0, 3, 1, 2), torch.tensor(examples["y"]).long()
    roots = json.loads((folder / "roots.json").read_text())
    share = json.loads((folder / "share.json").read_text())

    def build():
        return network(operations, weights).eval()

    if options.fine_tune:
        with np.load(folder / "train.npz") as train:
            data = torch.tensor(train["x"]).permute(0, 3, 1, 2), torch.tensor(train["y"]).long()
        np.savez(folder / "found.npz", tuned=fine_tuned(build(), data, (x, y), **options.fine_tune))
        return 0
    found = {"outputs": outputs(build(), x)}
    for name, scores in criteria(build(), x, y).items():
        model = build()
        for root, values in group_scores(model, scores, x, roots).items():
            found[f"{name}/{root}"] = values
    for name in ("magnitude", "lamp"):
        found[f"cut/{name}"] = cut(build(), name, x, share)
    np.savez(folder / "found.npz", **found)
    (folder / "times.json").write_text(json.dumps(times()))
    return 0


def network(operations: Sequence[dict], weights: dict) -> Any:
    """The network of these operations, with these weights: each operation has a name, a kind, and the names that it reads."""
    import torch
    from torch import nn

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({o["name"]: part(o) for o in operations if o["kind"] in ("conv", "norm", "dense")})

        def forward(self, x):
            values = {"input": x}
            for o in operations:
                read = [values[name] for name in o["reads"]]
                if o["name"] in self.parts:
                    values[o["name"]] = self.parts[o["name"]](*read)
                elif o["kind"] == "relu":
                    values[o["name"]] = torch.relu(*read)
                elif o["kind"] == "add":
                    values[o["name"]] = read[0] + read[1]
                else:
                    values[o["name"]] = read[0].mean((2, 3))
            return values[operations[-1]["name"]]

    def part(o: dict):
        of = {key.partition("/")[2]: torch.tensor(value) for key, value in weights.items() if key.startswith(o["name"] + "/")}
        if o["kind"] == "norm":
            layer = nn.BatchNorm2d(len(of["gamma"]), eps=o["epsilon"], momentum=o["momentum"])
            named = {"weight": of["gamma"], "bias": of["beta"]}
            named |= {"running_mean": of["moving_mean"], "running_var": of["moving_variance"]}
        elif o["kind"] == "dense":
            layer = nn.Linear(*of["kernel"].shape)
            named = {"weight": of["kernel"].T, "bias": of["bias"]}
        else:
            height, width, reads, makes = of["kernel"].shape
            layer = nn.Conv2d(reads, makes, (height, width), o["strides"], o["padding"], bias="bias" in of)
            named = {"weight": of["kernel"].permute(3, 2, 0, 1)} | ({"bias": of["bias"]} if "bias" in of else {})
        layer.load_state_dict(named, strict=False)
        return layer

    return Listed()


def outputs(model: Any, x: Any) -> Any:
    """The outputs of a model as an array."""
    import torch

    with torch.no_grad():
        return model(x).numpy()


def criteria(model: Any, x: Any, y: Any) -> dict[str, Callable]:
    """By name, what gives Torch-Pruning's importance for a model with the same weights, before it is normalized."""
    import torch_pruning as tp

    def hessian(other):
        # `accumulate_grad` of 1.6.1 looks its sums up by name and keeps them by parameter: each call replaces the last. So
        # the mean over examples is handed to it as the gradients that it reads.
        squares = squared_gradients(model, x, y)
        for parameter, square in zip(other.parameters(), squares, strict=True):
            parameter.grad = square
        return tp.importance.GroupHessianImportance(group_reduction="sum", normalizer=None)

    plain = {"group_reduction": "sum", "normalizer": None}
    return {
        "magnitude": lambda other: tp.importance.GroupMagnitudeImportance(p=2, **plain),
        "magnitude_l1": lambda other: tp.importance.GroupMagnitudeImportance(p=1, **plain),
        "lamp": lambda other: tp.importance.LAMPImportance(),
        "bn_scale": lambda other: tp.importance.BNScaleImportance(group_reduction="mean", normalizer=None),
        "hessian": hessian,
    }


def squared_gradients(model: Any, x: Any, y: Any) -> list:
    """For each parameter the mean over examples of the squared gradient."""
    import torch

    totals = [torch.zeros_like(p) for p in model.parameters()]
    for i in range(len(x)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        totals = [t + p.grad**2 / len(x) for t, p in zip(totals, model.parameters(), strict=True)]
    return totals


def group_scores(model: Any, scores: Callable, x: Any, roots: Sequence[str]) -> dict:
    """The importance of the channels that each of these layers makes, with all that hangs on them."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(model, x[:1])
    importance = scores(model)
    found = {}
    for root in roots:
        layer = model.parts[root]
        made = getattr(layer, "out_channels", None) or layer.out_features
        is_conv = hasattr(layer, "out_channels")
        prune = tp.prune_conv_out_channels if is_conv else tp.prune_linear_out_channels
        found[root] = importance(graph.get_pruning_group(layer, prune, idxs=list(range(made)))).numpy()
    return found


def fine_tuned(model: Any, train: tuple, test: tuple, *, share: float, seed: int, epochs: int, batch_size: int, **sgd) -> list:
    """The parameters of a model after a cut, and its accuracies on the test data before and after it is trained on.

    Args:
        model: the model; it is changed.
        train: inputs and labels.
        test: likewise.
        share: of every group, which is cut.
        seed: of the order of the examples.
        epochs: how often it sees them.
        batch_size: examples per step.
        **sgd: `learning_rate` and `momentum`.
    """
    import torch

    def accuracy() -> float:
        return 100 * float((torch.tensor(outputs(model.eval(), test[0])).argmax(1) == test[1]).float().mean())

    cut(model, "magnitude", test[0], share)
    before, (x, y) = accuracy(), train
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), sgd["learning_rate"], momentum=sgd["momentum"])
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    weights = [weight for weight in model.state_dict().values() if weight.is_floating_point()]  # and no counts of batches
    return [sum(weight.numel() for weight in weights), before, accuracy()]


def cut(model: Any, name: str, x: Any, share: float) -> Any:
    """The outputs of a model after Torch-Pruning has cut this share of every group."""
    import torch_pruning as tp

    importance = criteria(model, x, None)[name](model)
    last = list(model.parts.values())[-1]
    pruner = tp.pruner.BasePruner(model, x[:1], importance=importance, pruning_ratio=share, ignored_layers=[last])
    pruner.step()
    return outputs(model, x)


def times() -> dict[str, dict[str, float]]:
    """For networks of torchvision the seconds of the processor to trace one, and to trace it and cut half of each group."""
    import torch
    import torch_pruning as tp
    import torchvision

    found, x = {}, torch.randn(1, 3, 224, 224)
    for name in NETWORKS:
        best: dict[str, float] = {}
        for _ in range(3):
            model = getattr(torchvision.models, name)(weights=None).eval()
            start = time.process_time()
            tp.DependencyGraph().build_dependency(model, x)
            traced = time.process_time() - start
            head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
            start = time.process_time()
            importance = tp.importance.GroupMagnitudeImportance()
            tp.pruner.BasePruner(model, x, importance=importance, pruning_ratio=0.5, ignored_layers=[head]).step()
            pruned = time.process_time() - start
            for key, value in (("trace", traced), ("prune", pruned)):
                best[key] = min(value, best.get(key, value))
        found[name] = best
    return found


if __name__ == "__main__":
    sys.exit(main())
