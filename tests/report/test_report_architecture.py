"""The figure of an architecture."""

from __future__ import annotations

import numpy as np
import pytest

from pgnas_cli import registry
from pgnas_cli.plugin import Inflation
from pgnas_cli.report.architecture import WIDTH, block_drawing, describe, figure, percent
from pgnas_cli.report.drawing import Circle, Drawing, Path, Rect, Text, share_ink
from pgnas_cli.report.structure import Architecture, of_masks


def found(arch: str = "shakeshake26_2x4d", masks: dict[str, np.ndarray] | None = None) -> Architecture:
    net = registry.build_on_meta(registry.make_spec(arch, Inflation(), in_chans=1, img_size=16, num_classes=10))
    return of_masks(net, masks or {}, "winner", "0123456789abcdef")


THINNED = {
    "stage1.1.branch1.conv1": np.array([True, False, False, False]),
    "stage2.1.branch2.conv2": np.zeros(8, bool),
}


@pytest.mark.parametrize("arch", ["shakeshake26_2x4d", "resnet18", "densenet121", "enas15_2f", "efficientnet_b0"])
def test_everything_lies_inside_its_card(arch: str) -> None:
    for block in found(arch).blocks:
        drawing = block_drawing(block)
        for shape in drawing.shapes:
            if isinstance(shape, Rect):
                assert 0 <= shape.x <= shape.x + shape.width <= drawing.width
                assert 0 <= shape.y <= shape.y + shape.height <= drawing.height
            elif isinstance(shape, Path):
                assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in shape.points)
            elif isinstance(shape, Circle | Text):
                assert 0 <= shape.x <= drawing.width
                assert 0 <= shape.y <= drawing.height


def test_an_operation_has_the_colour_and_the_number_of_its_share() -> None:
    block = next(block for block in found(masks=THINNED).blocks if block.path == "stage1.1")
    drawing = block_drawing(block)
    box = next(s for s in drawing.shapes if isinstance(s, Rect) and s.mark and "branch1.conv1:" in s.mark.tip)
    assert box.fill == share_ink(0.25)
    assert box.mark is not None
    assert box.mark.tip == ("stage1.1.branch1.conv1: 3x3, 1 of 4 inputs, 4 of 4 outputs, 36 of 144 parameters")
    inside = [s.text for s in drawing.shapes if isinstance(s, Text) and box.x <= s.x <= box.x + box.width
              and box.y <= s.y <= box.y + box.height]  # fmt: skip
    assert inside == ["3x3", "25 %"]


def test_a_dropped_operation_is_a_dashed_gap_without_a_number() -> None:
    drawing = block_drawing(next(block for block in found(masks=THINNED).blocks if block.path == "stage2.1"))
    gaps = [s for s in drawing.shapes if isinstance(s, Rect) and s.mark and s.dashed]
    assert [gap.mark.tip for gap in gaps if gap.mark] == [
        "stage2.1.branch2.conv1: 3x3, dropped (576 parameters)",
        "stage2.1.branch2.conv2: 3x3, dropped (576 parameters)",
    ]
    assert {gap.stroke for gap in gaps} == {"gap"}
    assert sum(isinstance(s, Path) and s.dashed for s in drawing.shapes) == 3  # to, between and from them
    assert sum(isinstance(s, Text) and s.text.endswith(" %") for s in drawing.shapes) == 2 + 1  # and the block's own


def test_the_figure_holds_every_operation_once_as_a_whole_and_in_groups() -> None:
    architecture = found(masks=THINNED)
    made = figure(architecture)
    operations = [operation.name for operation in architecture.operations]
    assert [mark.tip.partition(":")[0] for mark in made.drawing.marks] == operations
    assert [m.tip.partition(":")[0] for g in made.groups for d in g.drawings for m in d.marks] == operations
    assert made.table is not None
    assert [row[0] for row in made.table.rows] == operations
    assert made.drawing.width <= WIDTH
    assert [group.heading for group in made.groups] == ["stem", "stage1", "stage2", "stage3", "pool, fc"]


def test_the_words_say_what_the_figure_shows() -> None:
    architecture = found(masks=THINNED)
    text = describe(architecture)
    assert f"{architecture.kept_params:,} are kept" in text
    assert "1 operation lost a part of the inputs" in text
    assert text.endswith("; dropped: 2 operations, stage2.1.branch2.conv1, stage2.1.branch2.conv2.")
    assert describe(found()).endswith("None lost a part of its inputs, none is dropped.")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1e-6, "<1 %"), (0.0099, "<1 %"), (0.01, "1 %"), (0.5, "50 %"), (0.999, "99 %"), (1, "100 %")],
)
def test_nothing_and_everything_are_not_rounded_to(share: float, text: str) -> None:
    assert percent(share) == text


def test_many_values_from_outside_are_drawn_as_one() -> None:
    blocks = {block.path: block for block in found("densenet121").blocks}
    last = blocks["features.denseblock1.denselayer6"]
    assert len(last.ports) == 6
    drawing = block_drawing(last)
    assert [s.text for s in drawing.shapes if isinstance(s, Text) and "before" in s.text] == ["6 before"]
    second = block_drawing(blocks["features.denseblock1.denselayer2"])
    assert {"conv0", "denselayer1"} <= {s.text for s in second.shapes if isinstance(s, Text)}


def test_a_drawing_moves_as_a_whole() -> None:
    from pgnas_cli.report.drawing import composed, flowed

    part = Drawing(10, 5, (Rect(1, 1, 3, 3), Path(((0, 0), (2, 2))), Text(1, 2, "x")))
    moved = composed([(100, 50, part)], 200, 100).shapes
    assert (moved[0].x, moved[0].y) == (101, 51)
    assert moved[1].points == ((100, 50), (102, 52))
    lines = flowed([part, part, part], width=25, gap=2)
    assert (lines.width, lines.height) == (22, 12)  # two in a line, one below
