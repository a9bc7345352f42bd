"""A window of the browser that notices whatever a page of the console must not do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Self

from axe_playwright_python.base import AXE_SCRIPT

if TYPE_CHECKING:
    from types import TracebackType

    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Request

DESKTOP: Final = {"width": 1000, "height": 700}
PHONE: Final = {"width": 390, "height": 844}
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
_LOOK: Final = """
    axe.run({resultTypes: ["violations"]}).then(found => found.violations.flatMap(it => it.nodes.map(
        node => `${it.id}: ${node.html.slice(0, 150)}: ${node.failureSummary}`)))
"""
_FAILED: Final = "Failed to load resource: the server responded with a status of 4"
"""What Chromium says of a page that is answered with such a status."""


class Window:
    """One page in a context of its own.

    Args:
        browser: that it is a window of.
        url: of the console.
        session: token of somebody who has signed in; empty for a stranger.
        options: of the context, such as `java_script_enabled`.

    Attributes:
        page: Playwright's.
        problems: errors in the browser's console, violations of the policy, dialogs, and requests to elsewhere.
    """

    def __init__(self, browser: Browser, url: str, session: str = "", **options: Any) -> None:
        self.problems: list[str] = []
        self.url = url
        self._context = browser.new_context(base_url=url, **({"viewport": DESKTOP} | options))
        if session:
            self._context.add_cookies([{"name": "pipeline_session", "value": session, "url": url}])
        self.page = self._context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", self._refuse)
        self.page.on("request", self._see)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._context.close()
        if kind is None:
            assert self.problems == []

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_FAILED):
            self.problems.append(f"{self.page.url}: {message.text}")

    def _refuse(self, dialog: Dialog) -> None:
        self.problems.append(f"{self.page.url}: dialog {dialog.message}")
        dialog.dismiss()

    def _see(self, request: Request) -> None:
        if not request.url.startswith(f"{self.url}/"):
            self.problems.append(f"{self.page.url}: request for {request.url}")

    def violations(self) -> list[str]:
        """Return what axe-core finds on this page, in light and in dark, each with the element."""
        self.page.evaluate(AXE_SCRIPT)
        found = []
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            found += [f"{scheme}: {it}" for it in self.page.evaluate(_LOOK)]
        return found

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
