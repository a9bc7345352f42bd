"""The web console: pages for operators, rendered on the server, a deployment of its own.

- `settings`: what it reads from the environment.
- `sign_in`, `passwords`: who somebody is.
"""
