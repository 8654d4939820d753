"""The server's settings: environment variables with the prefix STREAMSERVE_, or a `.env` file."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings of the server; docs/settings.md lists them."""

    model_config = SettingsConfigDict(env_prefix="STREAMSERVE_", env_file=".env", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    chains: str = Field("chains", description="Importable package that holds the chain modules.")
    dev: bool = Field(
        False,
        description="Serve the chains that load, show the broken ones on the home page, reload on change.",
    )
    root_path: str = Field("", description="Path under which a proxy serves the application.")
