"""What strangers call their files is shown as text and nothing else."""

from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from ui.cards import Card, Window, grid, sentence, url

HOSTILE = '"><img src=x onerror=alert(1)>${alert(1)}{{x}}'


class Elements(HTMLParser):
    """The tags of a piece of HTML, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_names_cannot_add_elements() -> None:
    card = Card(id=HOSTILE, title=HOSTILE, note=HOSTILE, badge=HOSTILE, hint=HOSTILE)
    plain = Card(id="a", title="a", note="a", badge="a", hint="a")
    assert Elements(card.html()).tags == Elements(plain.html()).tags
    assert HOSTILE in Elements(card.html()).text


def test_a_card_that_is_off_says_why_and_nothing_else() -> None:
    html = Card(id="pose", title="Pose", note="How a person stands.", off="Starter has no ControlNet <yet>.").html()
    assert 'aria-disabled="true"' in html
    assert "no ControlNet &lt;yet&gt;." in html
    assert "How a person stands" not in html


def test_sentences_cannot_add_elements() -> None:
    assert Elements(sentence(HOSTILE, "bad")).tags == ["p"]


def test_nothing_to_choose_from_says_what_will_be() -> None:
    assert "gather here" in grid([], "squares", "Pictures gather here.")


def test_a_window_shows_its_part_of_the_picture() -> None:
    """A square of 100 px at (50, 20) of a photo 300 px wide: the photo is three squares wide and half a one off."""
    assert Window(left=50 / 100, top=20 / 100, width=300 / 100).style == "left:-50.00%;top:-20.00%;width:300.00%"


def test_files_are_served_as_copies_with_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    original = tmp_path / "a b.png"
    Image.new("RGB", (8, 8)).save(original)
    address = url(original)
    assert str(original) not in address
    [copy] = (tmp_path / "cache").rglob("*.png")
    assert copy.read_bytes() == original.read_bytes()
