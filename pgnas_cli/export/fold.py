"""Folding BatchNorms into the convolution or linear layer in front of them: fewer layers, the same logits."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from pgnas_cli.compact.classify import CONVS, LINEARS, NORMS
from pgnas_cli.compact.network import CompactNetwork


def fold_batch_norms(network: CompactNetwork) -> CompactNetwork:
    """A copy in which every BatchNorm that alone reads a convolution or linear layer is part of that layer.

    W' = W * scale / sqrt(var + eps) by row, b' = (b - mean) * scale / sqrt(var + eps) + shift. The layer keeps its name
    and gains a bias; the norm is gone, what remains of one with an activation inside is that activation. All other
    norms stay: behind an addition, a concatenation or a gather, and in front of their convolution.

    Which layers are folded depends on the network's structure alone. The weights may be meta tensors, for the result to
    be filled by `load_state_dict(strict=True, assign=True)`.

    Args:
        network: in evaluation mode, whose statistics are folded.
    """
    folded = copy.deepcopy(network)
    modules = dict(folded.named_modules())
    calls = Counter(node.target for node in folded.graph.nodes if node.op == "call_module")
    for node in list(folded.graph.nodes):
        source = _foldable(node, modules, calls)
        if source is not None:
            _fold(folded, source, node, modules)
    folded.graph.lint()
    folded.recompile()
    return folded


def _foldable(node: fx.Node, modules: dict[str, nn.Module], calls: Counter[object]) -> fx.Node | None:
    """The call of the layer that the norm called by `node` can be folded into; None if it is no norm, or cannot."""
    source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    if calls[node.target] > 1 or calls[source.target] > 1:
        return None
    norm, layer = modules[str(node.target)], modules[str(source.target)]
    if type(norm) not in NORMS or norm.running_mean is None or norm.training:
        return None
    if type(layer) in LINEARS:
        return source if isinstance(norm, nn.BatchNorm1d) and layer.out_features == norm.num_features else None
    return source if type(layer) in CONVS and layer.out_channels == norm.num_features else None


def _fold(network: CompactNetwork, source: fx.Node, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Put the norm called by `node` into the layer called by `source`."""
    name, layer, norm = str(source.target), modules[str(source.target)], modules[str(node.target)]
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    fused: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Linear):
        fused = fuse_linear_bn_eval(layer, norm)
    else:
        assert isinstance(layer, nn.Conv2d)
        fused = fuse_conv_bn_eval(layer, norm)
    assert fused.bias is not None
    fused.bias.requires_grad_(fused.weight.requires_grad)  # torch freezes a bias that was not there before
    network.set_submodule(name, fused)
    rest = OrderedDict((part, child) for part, child in norm.named_children() if not isinstance(child, nn.Identity))
    if rest:
        network.set_submodule(str(node.target), nn.Sequential(rest))
        return
    node.replace_all_uses_with(source)
    network.graph.erase_node(node)
    network.delete_submodule(str(node.target))
