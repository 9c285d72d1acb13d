"""`pgnas` whose search distils the network without drops into the one with drops: an arm of study.py.

    python tests/bench/evidence/distilled.py train OPTIONS OF PGNAS TRAIN

Each step of the search in which masks are drawn trains the supernet twice on its images: without drops on the labels,
and with drops on what the former predicts, taken as constant,

    loss = H(labels, softmax(z_unmasked)) + H(stop_gradient(softmax(z_unmasked)), softmax(z_masked)) + kl

with H the cross-entropy. Inplace distillation of Yu and Huang, Universally Slimmable Networks and Improved Training
Techniques, ICCV 2019, with the sandwich's widest network as the teacher and one draw of masks as the student. The
warm-up, and the training after a commit, are those of `pgnas train`. One process, one part of a batch, images unmixed.

Shapes: B images of a step, C classes.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch.nn.functional as F
from torch import Tensor

from pgnas_cli.__main__ import main
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import trainer
from pgnas_cli.training.engine import Engine, Mixer
from pgnas_cli.training.objective import Objective
from pgnas_cli.training.seeds import seed_step


class TaughtObjective(Objective):
    """The loss of a recipe, on a teacher's predictions in the place of the labels while there are any."""

    taught: Tensor | None = None
    """Probabilities [B, C]."""

    def _cross_entropy(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        return super()._cross_entropy(logits_BC, labels if self.taught is None else self.taught)


class DistillingEngine(Engine):
    """Adds the teacher's loss to the gradients of each step that draws masks."""

    objective: TaughtObjective

    def gradients(self, images: Tensor, labels: Tensor, *, key: str, mix: Mixer | None = None) -> dict[str, Tensor]:
        net = self.net
        if not (isinstance(net, Supernet) and all(gate.enabled for gate in net.gates.values())):
            return super().gradients(images, labels, key=key, mix=mix)
        assert mix is None
        assert (self.world.size, self.recipe.compute.accumulate) == (1, 1)
        seed_step(key, self.world.rank)
        net.set_gating(False)
        with self.autocast():
            logits_BC = net(images.contiguous(memory_format=self.layout)).float()
        net.set_gating(True)
        self.objective.taught = logits_BC.detach().softmax(1)
        try:
            terms = super().gradients(images, labels, key=key)
        finally:
            self.objective.taught = None
        F.cross_entropy(logits_BC, labels, label_smoothing=self.objective.label_smoothing).backward()
        return terms


if __name__ == "__main__":
    assert (trainer.Engine, trainer.Objective) == (Engine, Objective)
    vars(trainer).update(Engine=DistillingEngine, Objective=TaughtObjective)
    sys.exit(main())
