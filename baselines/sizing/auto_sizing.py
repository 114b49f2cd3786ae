"""Dynamic auto-sizing: a penalty decides, period by period, which units a network keeps, while new ones are offered.

Reference: Cahlik, Kordik and Cepek, "Adapting the size of artificial neural networks using dynamic auto-sizing": Algorithm
1, tables II and III; the method itself is `kmerge.AutoSizer`. The original auto-sizing, which prunes at the end and grows
nothing, is Murray and Chiang's, arXiv:1508.05051.

    |------ auto_sizing: grow, an epoch, prune ------|------ auto_sizing_static: no penalty, no change ------|

Budget: the epochs of one network in one go ("single"), of which `SizingSettings.dynamic` are dynamic. An epoch is charged
as the operations of the units that it trains, grown ones included; that a compiled program may hold a larger capacity,
whose other units are zero, shows in `seconds`.

What differs from the paper:
- Adam's state is carried through growing and pruning. `auto_sizing_paper` restarts it as the authors' code does: zero
  state with the old step counter, which makes steps of about three times the learning rate.
- Rows of table III that start from "the sizes found" take those of the same seed, found by `auto_sizing` within the run's
  own budget, and the search is charged; the paper took the mean sizes over its folds, and did not charge them.
- "Best" is the best epoch on validation data among those of the final size; the paper chose on test data.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import keras
import numpy as np

import kmerge
from baselines.protocol.outcomes import make_outcome, metric_of, operations_of
from baselines.protocol.phases import Beginning, is_better
from baselines.protocol.strategy import Outcome, Stages, TrainingRecord, TrainingState
from baselines.protocol.task import Budget, SizingSettings, Task
from baselines.protocol.teachers import check_budget
from baselines.sizing.states import check_state, loaded_sizer, saved_state
from kmerge.costs import WidthCosts
from kmerge.seeds import seed_of
from kmerge.spaces import trace
from kmerge.training import choose_xla

# By strategy: how tables and figures name it, and whom they cite; see `benchmarks.strategies.labels`.
LABELS = {
    "auto_sizing": ("Auto-sizing", "cahlik2022"), "auto_sizing_paper": ("Auto-sizing, Adam restarted", "cahlik2022"),
    "auto_sizing_paper_net": ("Auto-sizing, the paper's network", "cahlik2022"),
    "auto_sizing_l21": ("Auto-sizing, l2,1", "murray2015"), "auto_sizing_linf1": ("Auto-sizing, linf,1", "murray2015"),
    "auto_sizing_prune_at_end": ("Auto-sizing, pruned at the end", "murray2015"),
    "auto_sizing_proximal": ("Auto-sizing, proximal", "cahlik2022"),
    "auto_sizing_adaptive": ("Auto-sizing, adaptive growth", "cahlik2022"),
    "auto_sizing_fan_in": ("Auto-sizing, by fan-in", "cahlik2022"),
    "auto_sizing_no_growth": ("Auto-sizing, no growth", "cahlik2022"),
    "auto_sizing_no_growth_no_finetuning": ("Auto-sizing, no growth, no fine-tuning", "cahlik2022"),
    "static_weighted_l1_finetuned": ("Static sizes, weighted L1, fine-tuned", "cahlik2022"),
    "static_weighted_l1": ("Static sizes, weighted L1", "cahlik2022"), "static_l1": ("Static sizes, L1", "cahlik2022"),
}  # fmt: skip
# The strategy whose sizes others take.
SEARCH = "auto_sizing"
# A run that is cut off loses as much.
SECONDS_BETWEEN_STATES = 5.0


@dataclass(frozen=True)
class AutoSizing:
    """A network that finds its own size, then is fine-tuned, or a variant by the settings; a `Strategy`.

    Attributes:
        name: of the strategy, which may have a learning rate of its own; labels its epochs.
        penalty: of `kmerge.AutoSizer`.
        start: "network", the suite's; or "found", one of the sizes that `auto_sizing` found for this seed.
        grow: whether units are added.
        prune: "period", "end" or "never".
        finetune: whether the last epochs are without penalty and change of size.
        optimizer_state: "carry" or "restart".
        paper_net: whether to size the paper's own net, where the suite's is another.
        growth: "adaptive", or None for the suite's.
        proximal: whether weights shrink after each step, instead of by a penalty in the loss.
        normalize: "fan_in" for a penalty of the mean weight of each unit, or None; of weighted L1 only.
        factor: on the suite's alpha, where a strength means something else.
    """

    name: str = SEARCH
    penalty: str = "weighted_l1"
    start: str = "network"
    grow: bool = True
    prune: str = "period"
    finetune: bool = True
    optimizer_state: str = "carry"
    paper_net: bool = False
    growth: str | None = None
    proximal: bool = False
    normalize: str | None = None
    factor: float = 1.0

    def __call__(self, task: Task, budget: Budget, seed: int, stages: Stages) -> Outcome:
        """See `Strategy`."""
        settings = settings_of(task, self.name)
        self._check(settings, budget)
        if self.name == SEARCH:
            network, record = found_network(task, budget, seed, stages)
            records = [record]
        else:
            of = replace(task, build=settings.net) if self.paper_net else task
            searched, sizes = [], None
            if self.start == "found":
                found, record = found_network(task, budget, seed, stages)
                searched, sizes = [record], found.sizes
            network = SizedNetwork(fresh_network(of, sizes, seed_of(self.name, seed)))
            records = [*searched, self.train(network, of, budget, seed, stages)]
        extras = sizing_extras(network.sizes, records, searched=len(records) > 1)
        return make_outcome(task, network.model, records[-1].best_weights, records, extras)

    def train(self, network: "SizedNetwork", task: Task, budget: Budget, seed: int, stages: Stages) -> TrainingRecord:
        """Train a network, which ends with another size.

        Args:
            network: changed in place.
            task: what to learn.
            budget: gives the epochs.
            seed: of the replicate.
            stages: what to train with.

        Returns:
            The record; its best weights are those of an epoch of the final size.
        """
        settings, total = settings_of(task, self.name), budget.single
        dynamic = min(total - 1, max(1, round(settings.dynamic * total))) if self.finetune else total
        augment = task.augment(seed_of("augment", seed, self.name)) if task.augment else None
        state = stages.resume(self.key(task, budget, seed), lambda state: check_state(state, augment))
        known = state is not None and bool(state.record.rows)
        sizer = loaded_sizer(state, augment) if known else self._sizer(network.model, task, seed)
        recorder = _SizingRecorder(sizer, task, self.name, dynamic, total, augment, stages.on_epoch)
        if known:
            recorder.restore(state.record)
        if len(recorder.record.rows) < total:
            stages.size(
                sizer,
                task.data.x_train,
                task.data.y_train,
                batch_size=settings.batch_size,
                epochs=dynamic,
                static_epochs=total - dynamic,
                initial_epoch=len(recorder.record.rows),
                validation_data=(task.data.x_val, task.data.y_val),
                callbacks=[Beginning(stages.before_epoch), recorder],
                augment=augment,
            )
        network.model = sizer.model
        return recorder.record

    def _sizer(self, model: keras.Model, task: Task, seed: int) -> kmerge.AutoSizer:
        settings = task.sizing
        normalized = self.normalize and kmerge.regularizers.WeightedL1(normalize=self.normalize)
        sizer = kmerge.AutoSizer(
            model,
            alpha=self.factor * settings.alphas[self.penalty],
            penalty=normalized or self.penalty,
            growth=self.growth or settings.growth,
            min_growth=settings.min_growth,
            threshold=settings.threshold,
            grow=self.grow,
            prune=self.prune,
            optimizer_state=self.optimizer_state,
            proximal=self.proximal,
            seed=seed_of("order", seed, self.name),
        )
        optimizer = keras.optimizers.Adam(settings.learning_rate_of(self.name))
        sizer.compile(optimizer, loss=task.loss(), metrics=[metric_of(task)])
        return sizer

    def key(self, task: Task, budget: Budget, seed: int) -> dict:
        """What a training depends on, as JSON can hold it.

        Args:
            task: what to learn.
            budget: gives the epochs.
            seed: of the replicate.
        """
        sizing = asdict(replace(task.sizing, net=None))
        about = {"stage": "sizing", "how": asdict(self), "sizing": sizing, "seed": seed, "epochs": budget.single}
        return {**task.identity, **about}

    def _check(self, settings: SizingSettings, budget: Budget) -> None:
        if self.penalty not in settings.alphas:
            raise kmerge.InvalidArgumentError(
                f"{self.name} needs the strength of {self.penalty!r}. Add it to [sizing.alphas], which has "
                f"{', '.join(settings.alphas)}."
            )
        if self.paper_net and settings.net is None:
            raise kmerge.InvalidArgumentError(f"{self.name} needs a table [sizing.net] in the suite; there is none.")
        check_budget(self.name, budget.single > 1, "2 epochs at least, a dynamic and a static one", budget)


def settings_of(task: Task, strategy: str) -> SizingSettings:
    """The settings of auto-sizing.

    Args:
        task: what to learn.
        strategy: who asks.

    Raises:
        InvalidArgumentError: if the task has none.
    """
    if task.sizing is None:
        raise kmerge.InvalidArgumentError(f"{strategy} needs a table [sizing] in the suite {task.name}; there is none.")
    return task.sizing


class SizedNetwork:
    """A network whose training may change its widths; for the cache of stages, its weights with its widths before them.

    Args:
        model: the network.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @property
    def sizes(self) -> dict[str, int]:
        """Units of each selectable channel space."""
        return {space.name: space.size for space in kmerge.channel_spaces(self.model).selectable}

    @property
    def weights(self) -> list[keras.Variable]:
        """The weights, without the widths."""
        return self.model.weights

    def get_weights(self) -> list[np.ndarray]:
        """The widths, then the weights."""
        return [np.array(list(self.sizes.values())), *self.model.get_weights()]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take widths and weights from `get_weights` of a network that began as this one.

        Args:
            weights: the widths, then the weights.
        """
        widths, *weights = weights
        self.model = resized(self.model, dict(zip(self.sizes, map(int, widths), strict=True)))
        self.model.set_weights(weights)


def resized(model: keras.Model, sizes: Mapping[str, int]) -> keras.Model:
    """A network of the same architecture with other widths; its weights mean nothing.

    Args:
        model: the network.
        sizes: units of its selectable channel spaces.
    """
    have = {space.name: space.size for space in kmerge.channel_spaces(model).selectable}
    fewer = {name: np.arange(size) for name, size in sizes.items() if size < have[name]}
    more = {name: size - have[name] for name, size in sizes.items() if size > have[name]}
    model = kmerge.select(model, fewer) if fewer else model
    return kmerge.grow(model, more) if more else model


def fresh_network(task: Task, sizes: Mapping[str, int] | None, seed: int) -> keras.Model:
    """The task's network with these widths, or with its own, as it starts: each weight is drawn anew.

    Weights come from the network's own initializers, at the new widths, each with a seed of its layer's name.

    Args:
        task: gives the network.
        sizes: units of its selectable channel spaces; None for its own.
        seed: of the weights.
    """
    if sizes is None:
        return task.build(seed)

    def redrawn(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        for name, value in config.items():
            if name.endswith("_initializer") and "seed" in (value or {}).get("config", {}):
                value["config"]["seed"] = seed_of("init", seed, layer.name, name.removesuffix("_initializer"))
        return type(layer).from_config(config)

    return keras.models.clone_model(resized(task.build(seed), sizes), clone_function=redrawn)


def found_network(task: Task, budget: Budget, seed: int, stages: Stages) -> tuple[SizedNetwork, TrainingRecord]:
    """What `auto_sizing` makes of the task's network, trained now or taken from the cache.

    Args:
        task: what to learn.
        budget: gives the epochs.
        seed: of the replicate.
        stages: what to train with.

    Returns:
        The network of the size found, with the weights of the last epoch, and the record of its training.
    """
    search = AutoSizing()
    return stages.run(
        search.key(task, budget, seed),
        lambda: SizedNetwork(task.build(seed_of(SEARCH, seed))),
        lambda network: search.train(network, task, budget, seed, stages),
    )


def sizing_extras(sizes: Mapping[str, int], records: list[TrainingRecord], searched: bool) -> dict:
    """Columns that rows of auto-sizing have besides.

    Args:
        sizes: of the final network.
        records: of all trainings.
        searched: whether the first of them only found the sizes.
    """
    return {
        "sizes": dict(sizes),
        "units": float(sum(sizes.values())),
        "search_charged": searched,
        "search_flops": records[0].flops if searched else 0.0,
    }


class _SizingRecorder(keras.callbacks.Callback):
    """Makes a row of each epoch with the sizes that it trained and those that it left; the last of the callbacks."""

    def __init__(self, sizer, task: Task, label: str, dynamic: int, total: int, augment, hear: Callable):
        super().__init__()
        self.sizer, self.task, self.label, self.augment, self.hear = sizer, task, label, augment, hear
        self.dynamic, self.is_tuned = dynamic, total > dynamic
        self.costs = WidthCosts(trace(sizer.model))
        self.rate = task.sizing.learning_rate_of(label)
        # Programs are compiled inside the epochs: what that takes is in their seconds.
        program = {"program": "auto_sizer", "compile_seconds": 0.0, "together": 1}
        self.record = TrainingRecord([], 0.0, 0.0, [], program)
        self.best_value, self.best_sizes = None, None
        self.before, self.begun = 0.0, time.perf_counter()
        self.state, self.kept_at = TrainingState(TrainingRecord([], 0.0, 0.0, []), []), self.begun

    def restore(self, record: TrainingRecord) -> None:
        """Go on from a record."""
        self.record = replace(record, rows=list(record.rows), program=dict(record.program))
        self.before = record.seconds
        for epoch, row in enumerate(record.rows):
            self._is_best(epoch, row)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now, record, sizes = time.perf_counter(), self.record, self.sizer.sizes
        is_static = epoch >= self.dynamic
        trained = sizes if is_static else self.sizer.history_of_sizes[-1]["grown"]
        logs = {name: float(value) for name, value in logs.items()}
        metric = self.task.metric
        row = {
            "phase": f"{self.label}_static" if is_static else self.label,
            "epoch": epoch + 1 - (self.dynamic if is_static else 0),
            "loss": logs.pop("loss"),
            "train_metric": logs.pop(metric),
            "val_loss": logs.pop("val_loss"),
            "val_metric": logs.pop(f"val_{metric}"),
            "learning_rate": self.rate,
            "seconds": now - self.epoch_begun,
            "trained_sizes": trained,
            "sizes": sizes,
            **logs,
        }
        record.rows.append(row)
        record.flops += operations_of(self.costs.multiply_accumulates(trained), self.task)
        record.seconds = self.before + now - self.begun
        record.program |= {"xla": choose_xla(self.model, self.augment), "compiles": self.sizer.compiles}
        if self._is_best(epoch, row):
            # In static epochs the model that is trained is the plain one.
            record.best_weights = (self.model if is_static else self.sizer.model).get_weights()
        self.hear(row, self._state())

    def _is_best(self, epoch: int, row: Mapping) -> bool:
        """The best epoch is among those of the final size: static ones, or, without such, those with the last sizes."""
        if epoch < self.dynamic and self.is_tuned:
            return False
        is_best = row["sizes"] != self.best_sizes or is_better(row["val_metric"], self.best_value, self.task)
        if is_best:
            self.best_value, self.best_sizes = row["val_metric"], row["sizes"]
        return is_best

    def _state(self) -> Callable[[], TrainingState]:
        """A sizer is saved now or not at all, as the next epoch grows it before anyone can ask: now and then."""
        if time.perf_counter() - self.kept_at >= SECONDS_BETWEEN_STATES:
            self.state = saved_state(self.sizer, self.augment, self.record)
            self.kept_at = time.perf_counter()
        state = self.state
        return lambda: state
