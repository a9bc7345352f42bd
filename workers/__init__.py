"""One event, three duties: ingest, dispatch, sweep. What handlers import is here."""
