"""The team's application: `python server.py`, `uvicorn server:app` or `streamserve serve`."""

from dotenv import load_dotenv

from streamserve.app import create_app
from streamserve.catalog.registry import discover
from streamserve.settings import Settings

load_dotenv(".env")  # before the chains load: `uvicorn server:app` does not read it
settings = Settings()
app = create_app(discover(settings.chains), settings)

if __name__ == "__main__":
    from streamserve.cli import main

    main(["serve"])
