from collections.abc import Iterator

import numpy as np
import pytest
import torch

from engine.starter.corpus import LOOKS_PER_SCENE, Corpus, _render_shard, looks_of, scene
from engine.starter.looks import COLOURLESS_LOOKS
from engine.starter.perception import (
    CELL_NAMES,
    COLOUR_NAMES,
    UNKNOWN,
    Reader,
    cells_of,
    feature_distance,
    naming_loss,
)
from engine.starter.render import render


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.starter.corpus.SHARD_SCENES", 2)
        folder = tmp_path_factory.mktemp("corpus")
        _render_shard(folder, 0)
        yield Corpus(folder)


def test_cells_are_named_as_the_renderer_says(corpus: Corpus) -> None:
    cells = cells_of(corpus, 16)
    for index in range(2):
        shown = render(scene(index))
        row = 2 * LOOKS_PER_SCENE * index
        names, colours = (values[0].numpy() for values in cells.of(torch.tensor([row])))
        centres = shown.segmentation[9::16, 9::16]  # the middle of the kept 128x128 picture's cell
        for place, thing in enumerate(scene(index).things):
            here = centres == 2 + place
            assert here.any()
            assert set(names[here]) == {CELL_NAMES.index(thing.kind)}
            assert set(colours[here]) == {COLOUR_NAMES.index(thing.colour)}
        assert set(np.unique(names[centres < 2])) <= {0, 1}
        assert set(colours[centres < 2]) <= {UNKNOWN}


def test_the_mirrored_row_is_the_mirror_image(corpus: Corpus) -> None:
    cells = cells_of(corpus, 32)
    names, _ = cells.of(torch.tensor([0, 1]))
    assert torch.equal(names[1], names[0].flip(-1))


def test_looks_without_colour_name_none(corpus: Corpus) -> None:
    cells = cells_of(corpus, 16)
    for index in range(2):
        for place, look in enumerate(looks_of(index)):
            _, colours = cells.of(torch.tensor([2 * (index * LOOKS_PER_SCENE + place)]))
            assert (colours == UNKNOWN).all() == (look in COLOURLESS_LOOKS)


def test_distance_is_nothing_to_itself_and_naming_agrees_with_torch() -> None:
    torch.manual_seed(0)
    reader = Reader().eval()
    one, other = reader(torch.randn(2, 16, 16, 16)), reader(torch.randn(2, 16, 16, 16))
    assert torch.equal(feature_distance(one, one), torch.zeros(2))
    assert (feature_distance(one, other) > 0).all()
    names = torch.randint(len(CELL_NAMES), (2, 16, 16))
    colours = torch.full((2, 16, 16), UNKNOWN)
    expected = torch.nn.functional.cross_entropy(one.names[:1], names[:1])
    assert torch.isclose(naming_loss(one.names, one.colours, names, colours)[0], expected)
