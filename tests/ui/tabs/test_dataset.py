"""What the cards of photos say."""

import pytest

from engine.dataset import Advice
from ui.tabs.dataset import badge


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        ([], ""),
        (["Blurred: a.jpg. Replace with sharp ones, or leave out."], "Blurred"),
        (["Several faces: a.jpg.", "Blurred: a.jpg."], "Several faces"),
        (["A face in a.jpg, while most photos show none."], "Look"),
    ],
)
def test_a_badge_is_the_first_words_of_the_report(texts: list[str], word: str) -> None:
    assert badge([Advice("warn", text, ("a",)) for text in texts]) == word
