"""The team's application: `python server.py`, `uvicorn server:app` or `streamserve serve`."""

from streamserve.app import create_app
from streamserve.catalog.registry import discover
from streamserve.settings import Settings

settings = Settings()
app = create_app(discover(settings.chains), settings)

if __name__ == "__main__":
    from streamserve.cli import main

    main(["serve"])
