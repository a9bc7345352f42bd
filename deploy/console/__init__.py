"""The console: every event in a browser, what became of it and why, and what to do about it.

In reading order: `routes` (the table of routes), `rules` (a row of it), `dispatch` (what happens around every page),
`visit` (a request as pages see it), `pages/` (one file for each noun), `actions` (forms, confirmations and their
commands), `sign_in` and `passwords` (who somebody is), `database` (two connections), `doctor`, `rendering`, `charts`
and `templates/`, `app` (headers and static files), `settings`.

It stands on `workers.store` and is no part of an event's way.
"""
