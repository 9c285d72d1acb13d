"""From masks to a small network: trace once, then analyse, cost, mask or build any candidate.

The package takes any nn.Module and masks (convolution or linear layer name -> bool over its input channels).
"""

from pgnas_cli.compact.batch import CandidateCosts, count_many
from pgnas_cli.compact.build import compact
from pgnas_cli.compact.expected_cost import expected_cost
from pgnas_cli.compact.graph import ChannelGraph, ChannelNode, Geometry
from pgnas_cli.compact.liveness import Cost, analyse, count, depends_on_input, expected
from pgnas_cli.compact.masked import apply_masks, masked_parameters
from pgnas_cli.compact.network import CompactNetwork
from pgnas_cli.compact.rules import Liveness
from pgnas_cli.compact.trace import trace

__all__ = [
    "CandidateCosts",
    "ChannelGraph",
    "ChannelNode",
    "CompactNetwork",
    "Cost",
    "Geometry",
    "Liveness",
    "analyse",
    "apply_masks",
    "compact",
    "count",
    "count_many",
    "depends_on_input",
    "expected",
    "expected_cost",
    "masked_parameters",
    "trace",
]
