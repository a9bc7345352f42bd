"""How somebody uses a page: by mouse, or by keyboard alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from playwright.sync_api import Page

MOST_STOPS: Final = 150
"""Of the Tab key on a page."""
_FOCUSED: Final = """() => {
    const it = document.activeElement;
    const label = it.labels && it.labels.length ? it.labels[0].innerText : it.innerText;
    const box = it.getBoundingClientRect(), style = getComputedStyle(it);
    return {
        tag: it.tagName, name: label.trim(), isSeen: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
        isMarked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
    };
}"""


class Hands(Protocol):
    """What somebody does on a page."""

    def follow(self, name: str) -> None:
        """Follow the link, or press the button, of this name."""

    def fill(self, label: str, text: str) -> None:
        """Write into the field of this label."""

    def choose(self, label: str, option: str) -> None:
        """Choose of the list of this label."""


class Mouse:
    """Somebody with a mouse."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def follow(self, name: str) -> None:
        """Click on it."""
        link = self._page.get_by_role("link", name=name, exact=True)
        link.or_(self._page.get_by_role("button", name=name, exact=True)).first.click()

    def fill(self, label: str, text: str) -> None:
        """Click into it, and type."""
        self._page.get_by_label(label).first.fill(text)

    def choose(self, label: str, option: str) -> None:
        """Open it, and click on the option."""
        self._page.get_by_label(label, exact=True).select_option(option)


class Keyboard:
    """Somebody without a mouse: every element is reached by Tab, and is seen and marked while it has the focus."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def follow(self, name: str) -> None:
        """Go to it, and press Enter."""
        self._reach(name, {"A", "BUTTON"})
        with self._page.expect_navigation():
            self._page.keyboard.press("Enter")

    def fill(self, label: str, text: str) -> None:
        """Go to it, and type."""
        self._reach(label, {"INPUT", "TEXTAREA"})
        self._page.keyboard.type(text)

    def choose(self, label: str, option: str) -> None:
        """Go to it, and type the beginning of the option."""
        self._reach(label, {"SELECT"})
        self._page.keyboard.type(option)

    def _reach(self, name: str, tags: set[str]) -> None:
        for _ in range(MOST_STOPS):
            focused = self._page.evaluate(_FOCUSED)
            if focused["tag"] in tags and (focused["name"] == name or focused["name"].startswith(f"{name} (")):
                assert focused["isSeen"], f"{name} is outside of the window while it has the focus"
                assert focused["isMarked"], f"nothing shows that {name} has the focus"
                return
            self._page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {name!r} on {self._page.url}")
