"""What is handed to the other side in benchmarks.studies.torch_pruning; what runs there needs PyTorch."""

import json

from benchmarks.networks.architectures import resnet
from benchmarks.studies.torch_pruning import operations_of


def test_a_network_is_told_by_its_operations_with_paddings_inside_the_convolutions():
    model = resnet((8, 8, 1), 10, 0, depth=8, width=4)
    operations = json.loads(json.dumps(operations_of(model)))
    made = ["input"]
    for one in operations:
        assert set(one["reads"]) <= set(made), "each reads what is there already"
        made.append(one["name"])
    padded = {one["name"]: one["padding"] for one in operations if one["kind"] == "conv"}
    kernels = {name: model.get_layer(name).kernel_size[0] for name in padded}
    assert padded == {name: size // 2 for name, size in kernels.items()} and len(padded) == 9
    held = {one["name"] for one in operations if one["kind"] in ("conv", "norm", "dense")}
    assert held == {layer.name for layer in model.layers if layer.weights}
    assert operations[-1]["name"] == model.layers[-1].name
