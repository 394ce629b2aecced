"""What the tests of pages read in them."""

import json
from collections import Counter
from html.parser import HTMLParser
from typing import Any

LINKS = ("href", "src", "xlink:href", "action", "data", "srcset")
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page consists of; asserts that its tags are balanced.

    Attributes:
        tags: how often each is there.
        shown: attributes of the buttons of class "show".
        links, ids: values of the attributes that ask for something, and of `id`.
        scripts: texts of script elements; `text` is all other text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.shown: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.links += [facts[name] for name in LINKS if name in facts]
        self.ids += [facts["id"]] if "id" in facts else []
        self.shown += [facts] if (tag, facts.get("class")) == ("button", "show") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text += data

    @property
    def viewer(self) -> dict[str, Any]:
        """What the script before the last holds: the data of the player."""
        found: dict[str, Any] = json.loads(self.scripts[-2])
        return found

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())
