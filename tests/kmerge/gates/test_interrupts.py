"""An interrupt at the border of an epoch, between one gate and the next."""

import numpy as np
import pytest

import kmerge
from kmerge.gates import GatePressure, gates_of
from tests.kmerge.gates.cases import compiled, drive


@pytest.mark.parametrize("hook", ["before_epoch", "after_epoch"])
def test_an_interrupt_between_two_gates_leaves_all_of_them_as_they_were(hook):
    class Interrupted(kmerge.LagrangianControl):
        pass

    def first_gate_alone(self, gates, epoch, epochs):
        getattr(kmerge.LagrangianControl, hook)(self, gates[:1], epoch, epochs)
        raise KeyboardInterrupt

    model = compiled("sgd")
    drive(model, 2, [GatePressure("lagrangian")])
    states = [getattr(gate, name) for gate in gates_of(model) for name in ("pressure", "multiplier", "polarization")]
    before = [float(np.asarray(state)) for state in states]
    setattr(Interrupted, hook, first_gate_alone)
    with pytest.raises(KeyboardInterrupt):
        drive(model, 4, [GatePressure(Interrupted(rho=20.0))], start=2)
    kept = range(len(before)) if hook == "before_epoch" else range(1, len(before), 3)  # the epoch itself had begun
    assert [float(np.asarray(states[i])) for i in kept] == [before[i] for i in kept]
    assert len({before[1], before[4]}) == 2
