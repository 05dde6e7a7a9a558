"""Tripod, from the command line: `python app.py` opens the studio, `python app.py demo --out DIR` runs it by itself."""

import argparse
import os
import secrets
import sys
from pathlib import Path

PERSISTENT_STORAGE = Path("/data")  # where Spaces mounts what outlives a restart


def default_workspace() -> Path:
    if folder := os.environ.get("TRIPOD_WORKSPACE"):
        return Path(folder)
    if "SPACE_ID" in os.environ and os.access(PERSISTENT_STORAGE, os.W_OK):
        return PERSISTENT_STORAGE / "tripod"
    return Path.home() / ".local" / "share" / "tripod"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tripod: teach an image model your subject, and steer it.")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="also open a public link, behind a password")
    parser.add_argument("--workspace", type=Path, default=default_workspace(), help="where everything is kept")
    parser.add_argument(
        "--models",
        type=Path,
        default=os.environ.get("TRIPOD_MODELS"),
        help="folder of base models of your own; default: models in the workspace",
    )
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this login")
    return parser.parse_args(arguments)


def login(given: str | None, share: bool) -> tuple[str, str] | None:
    """The user and password to ask for. A public link always gets one: guesses are not slowed down, so a strong one."""
    if given:
        user, _, password = given.partition(":")
        if not user or not password:
            sys.exit(f"--auth is {given!r}. Give a user and a password, such as --auth me:secret.")
        return user, password
    if share:
        password = secrets.token_urlsafe(18)
        print(f"The public link asks for a login. User: tripod  Password: {password}")
        return "tripod", password
    return None


def serve(arguments: list[str]) -> None:
    from engine.studio import Studio
    from engine.workspace import Workspace
    from ui import build_app
    from ui.theme import launch_options

    asked = parse_arguments(arguments)
    os.environ["TRIPOD_MODELS"] = str(asked.models or asked.workspace / "models")  # trainings inherit it
    app = build_app(Studio(Workspace(asked.workspace)))
    _, _, public_url = app.launch(
        prevent_thread_lock=True,
        server_name=asked.host,
        server_port=asked.port,
        share=asked.share,
        auth=login(asked.auth, asked.share),
        _frontend=False,  # or it gives up when a busy machine takes 3 s to answer its own first request
        **launch_options(),
    )
    if asked.share and not public_url:
        print("The public link could not be opened. The page is on this machine only; try --share again later.")
    app.block_thread()


def main() -> None:
    match sys.argv[1:]:
        case ["demo", *rest]:
            from engine.demo import main as demo

            sys.exit(demo(rest))
        case arguments:
            serve(arguments)


if __name__ == "__main__":
    main()
