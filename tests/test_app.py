"""The command line: where things are kept, and who may come in."""

from pathlib import Path

import pytest

from app import default_workspace, login, parse_arguments


def test_the_workspace_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIPOD_WORKSPACE", str(tmp_path))
    assert parse_arguments([]).workspace == tmp_path


def test_the_workspace_lies_outside_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPOD_WORKSPACE", raising=False)
    assert Path.cwd() not in default_workspace().parents


def test_by_default_only_this_machine_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    assert parse_arguments([]).host == "127.0.0.1"
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert parse_arguments([]).host == "0.0.0.0"


def test_a_public_link_always_has_a_strong_password(capsys: pytest.CaptureFixture[str]) -> None:
    user_and_password = login(None, share=True)
    assert user_and_password is not None
    assert len(user_and_password[1]) >= 20
    assert user_and_password[1] in capsys.readouterr().out
    assert login(None, share=True) != user_and_password


def test_a_login_is_taken_as_given() -> None:
    assert login("me:a:b", share=True) == ("me", "a:b")
    assert login(None, share=False) is None
    with pytest.raises(SystemExit, match="Give a user and a password"):
        login("me", share=False)
