"""Which gated inputs magnitude pruning keeps: those with the largest ||W_k||, of all layers together, at a size.

W_k are the weights of a convolution that read its input k. Global and structured, as L2 magnitude pruning is (Li et
al., ICLR 2017; Mishra et al. 2021), through the masks and the compaction of pgnas: the exact parameters of the compact
network are as near below the target as a threshold brings them. Weights of one layer start with the same expected norm
as those of any other (He et al. 2015, fan out), so the norms are compared as they are.
"""

from __future__ import annotations

import numpy as np
import torch

from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.commit import settle
from pgnas_cli.training.cost_target import Target


@torch.no_grad()
def magnitude_masks(net: Supernet, params: float) -> dict[str, np.ndarray]:
    """Layer -> which inputs are kept, bool [K].

    The drop logits of `net` become -||W_k||, so that the default recipe's `settle` finds the threshold.

    Args:
        net: with a probability for each channel.
        params: most parameters of the compact network.
    """
    for name, gate in net.gates.items():
        norms = net.search_layers[name].weight.transpose(0, 1).flatten(1).norm(dim=1)
        gate.drop_logit.copy_(-norms)
    return settle(net, [Target("params", params)])
