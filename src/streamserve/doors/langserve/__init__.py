"""The wire of LangServe, with runs."""
