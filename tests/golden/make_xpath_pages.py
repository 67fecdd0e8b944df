"""Pages to try XPath on, made from nothing but a seed.

    python3 tests/golden/make_xpath_pages.py

writes `xpath/pages/`. They have what expressions in `xpath/expressions.txt` ask for: lists within lists, tables
with and without rows, comments between texts, SVG, attributes with and without values, and misnested tags.
"""

import random
from pathlib import Path

WORDS = "elm oak ash fir Home the a tree grows by the river and Copyright © häuser Ingredients 12 300 leaves".split()
CLASSES = ["title", "post", "content", "row", "menu-item", "entry-title", "recipe", "a b", " a  b c", "e", "", "active"]
IDS = ["content", "main", "post-1", "post-2", "nav", "top"]
PARTS = ["paragraph", "list", "table", "links", "figure", "headings", "form", "definitions", "graphic", "broken", "box"]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.ids = IDS.copy()

    def words(self, most=6):
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, most)))

    def attributes(self):
        out = ""
        if self.random.random() < 0.4:
            out += f' class="{self.random.choice(CLASSES)}"'
        if self.ids and self.random.random() < 0.15:
            out += f' id="{self.ids.pop(0)}"'
        if self.random.random() < 0.1:
            out += self.random.choice([' data-id=7', ' style="color: red"', ' itemprop=name', ' onclick="f()"', " hidden"])
        return out

    def link(self):
        href = self.random.choice(["/", "#top", "http://elm.example/", "https://oak.example/a?b=c", "/tags/facebook", "x"])
        title = self.random.choice(["", "", ' title="Home"', ' rel=nofollow', ' target="_blank" rel=x'])
        inner = self.random.choice([self.words(2), "Home", f"<b>{self.words(1)}</b>", '<img src="i.png" alt="">', " "])
        return f'<a href="{href}"{title}{self.attributes()}>{inner}</a>'

    def inline(self):
        return self.random.choice(
            [
                self.words,
                self.link,
                lambda: f"<span{self.attributes()}>{self.words()}</span>",
                lambda: f"<em>{self.words(2)}</em>",
                lambda: f"<!-- {self.words(2)} -->",
                lambda: "<br>",
            ]
        )()

    def line(self):
        return " ".join(self.inline() for _ in range(self.random.randint(1, 4)))

    def paragraph(self, depth):
        return f"<p{self.attributes()}>{self.line()}</p>"

    def list(self, depth):
        items = (
            f"<li{self.attributes()}>{self.line()}{self.list(depth + 1) if self.random.random() < 0.25 and depth < 5 else ''}"
            for _ in range(self.random.randint(1, 4))
        )
        name = self.random.choice(["ul", "ul", "ol"])
        return f"<{name}{self.attributes()}>{''.join(items)}</{name}>"

    def table(self, depth):
        rows = (
            "<tr>" + "".join(f"<td{self.attributes()}>{self.words(2)}" for _ in range(3))
            for _ in range(self.random.randint(1, 3))
        )
        return f"<table>{self.random.choice(['', 'stray ', '<p>moved</p>'])}{''.join(rows)}</table>"

    def links(self, depth):
        return f"<nav>{' '.join(self.link() for _ in range(3))}</nav>"

    def figure(self, depth):
        return (
            f'<figure><img src="p{depth}.jpg" width={self.random.choice([100, 300, 640])} height=300 alt="{self.words(2)}">'
            f"<figcaption>{self.words()}</figcaption></figure>"
        )

    def headings(self, depth):
        return f"<h2>{self.words(3)}</h2>\n<p>{self.line()}</p><h3>{self.words(2)}</h3><p>{self.line()}"

    def form(self, depth):
        return '<form><label for=q>Find</label><input id=q name=q><input type=hidden name=x value=""></form>'

    def definitions(self, depth):
        return f"<dl><dt>{self.words(1)}<dd>{self.line()}<dt>{self.words(1)}<dd>{self.words()}</dl>"

    def graphic(self, depth):
        return '<svg viewBox="0 0 9 9"><linearGradient id="g"/><path d="M0 0"/><use xlink:href="#g"/></svg>'

    def broken(self, depth):
        return f"<b{self.attributes()}>{self.words(2)}<p>{self.words(2)}</b>{self.words(1)}</p></i><p><i>{self.words(1)}<p>x</i>"

    def box(self, depth):
        name = self.random.choice(["div", "div", "div", "section", "article", "aside"])
        return f"<{name}{self.attributes()}>\n{self.parts(depth + 1, self.random.randint(1, 3))}</{name}>"

    def parts(self, depth, n_parts):
        kinds = PARTS if depth < 5 else ["paragraph"]
        return "".join(getattr(self, self.random.choice(kinds))(depth) for _ in range(n_parts))

    def page(self):
        return (
            f'<!-- before --><!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>{self.words()}</title>'
            f'<meta property="og:title" content="{self.words(2)}"><link rel=canonical href="http://elm.example/">'
            '<script type="application/ld+json">{"a": "<b>"}</script><style>p { color: red }</style></head>'
            f"<body{self.attributes()}><header>{self.links(0)}<h1>{self.words()}</h1></header>\n<main>{self.parts(0, 10)}</main>\n"
            f"{self.box(0)}{self.box(0)}<div class=\"content\"><div id=wrap>{self.parts(3, 3)}</div>{self.box(1)}</div>"
            f'<iframe src="x.html"></iframe><footer>{self.link()} © Copyright</footer></body></html><!-- after -->\n'
        )


def main():
    folder = Path(__file__).parent / "xpath" / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in (1, 2, 3):
        (folder / f"{seed}.html").write_text(Maker(seed).page())


if __name__ == "__main__":
    main()
