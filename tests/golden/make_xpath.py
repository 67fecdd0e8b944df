"""What lxml makes of XPath expressions, on the very trees that the crate parses.

    cargo build --release -p elmwood-web --example xpath
    venv/bin/python tests/golden/make_xpath.py target/release/examples/xpath

writes `xpath/golden.json`: for each page of `xpath/pages/` and each line of `xpath/expressions.txt` the value that
lxml gives. With pages behind it, it writes nothing and says instead where the crate differs from lxml on these
pages, and how fast both are:

    venv/bin/python tests/golden/make_xpath.py target/release/examples/xpath page.html ...

The crate prints its tree (`dump`), lxml builds the same from it with the element factory of its HTML parser, and
both evaluate on their own. So what is compared is XPath alone, not two ways to repair a page.
"""

import json
import math
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path

import lxml.html
from lxml import etree

HERE = Path(__file__).parent / "xpath"
ROUNDS = 3
N_SLOWEST = 25
# The one name with a prefix that XPath itself knows of, by `lang()`.
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class Page:
    """A tree in lxml, and the crate's number for each of its nodes."""

    def __init__(self, dumped):
        nodes = dumped["nodes"]
        self.numbers = {}
        self.ends = list(range(1, len(nodes) + 1))
        for number in range(len(nodes) - 1, 0, -1):
            parent = nodes[number][0]
            self.ends[parent] = max(self.ends[parent], self.ends[number])
        make = lxml.html.html_parser.makeelement
        built, last, root, outside = {}, {}, None, []
        for number, (parent, kind, *content) in enumerate(nodes):
            if kind == "document":
                continue
            if kind == "text":
                if parent in last:
                    last[parent].tail = (last[parent].tail or "") + content[0]
                else:
                    built[parent].text = (built[parent].text or "") + content[0]
                continue
            if kind == "comment":
                node = etree.Comment()
                # Not to the constructor, which refuses what a page may have in a comment, `--`.
                node.text = content[0]
            else:
                node = make(content[0])
            built[number] = node
            self.numbers[node] = number
            if parent == 0:
                if kind == "element":
                    root = node
                outside.append(node)
            else:
                built[parent].append(node)
                last[parent] = node
            # Behind `append`, so that ids are known to the document that the element is in.
            if kind == "element":
                for name, value in content[1]:
                    node.set(XML_LANG if name == "xml:lang" else name, value)
        # What stands before and behind `<html>`.
        at = outside.index(root)
        for node in outside[:at]:
            root.addprevious(node)
        for node in reversed(outside[at + 1 :]):
            root.addnext(node)
        self.tree = root.getroottree()

    def describe(self, value):
        """A value as `examples/xpath.rs` describes it."""
        if isinstance(value, bool):
            return ["bool", value]
        if isinstance(value, float):
            return ["number", number(value)]
        if isinstance(value, str):
            return ["text", str(value)]
        names, checksum = [], 0
        for node in value:
            names.append(self.name(node))
            text = node if isinstance(node, str) else node.xpath("string()") if isinstance(node.tag, str) else node.text
            checksum = zlib.crc32(b"\0", zlib.crc32((text or "").encode(), checksum))
        return ["nodes", names, checksum]

    def name(self, node):
        if not isinstance(node, str):
            return self.numbers[node]
        parent = self.numbers[node.getparent()]
        if node.is_attribute:
            return f"{parent}@{'xml:lang' if node.attrname == XML_LANG else node.attrname}"
        return self.ends[parent] if node.is_tail else parent + 1


def number(value):
    if math.isfinite(value):
        return value
    return {"nan": "NaN", "inf": "inf", "-inf": "-inf"}[str(value)]


def evaluate(page, expressions, rounds):
    """Each expression's value as lxml has it and the seconds that took, the least of `rounds`."""
    for text in expressions:
        try:
            expression = etree.XPath(text)
        except etree.XPathError as error:
            yield {"refused": str(error)}
            continue
        secs, value = math.inf, None
        try:
            for _ in range(rounds):
                start = time.perf_counter()
                value = expression(page.tree)
                secs = min(secs, time.perf_counter() - start)
        except etree.XPathError as error:
            yield {"error": str(error)}
            continue
        yield {"value": page.describe(value), "secs": secs}


def run(program, *arguments):
    lines = subprocess.run([program, *map(str, arguments)], check=True, capture_output=True).stdout.decode()
    return [json.loads(line) for line in lines.split("\n") if line]


def is_same(ours, theirs):
    for key in ("refused", "error"):
        if key in ours or key in theirs:
            return key in ours and key in theirs
    ours, theirs = ours["value"], theirs["value"]
    if ours[0] == theirs[0] == "number" and isinstance(ours[1], (int, float)) and isinstance(theirs[1], float):
        return math.isclose(ours[1], theirs[1], rel_tol=1e-12)
    return ours == theirs


def short(result):
    text = json.dumps(result.get("value", result))
    return text if len(text) < 120 else text[:120] + "..."


def compare(program, expressions, pages):
    n_all, n_same, ours_secs, theirs_secs = 0, 0, [], []
    n_bytes, ours_parse, theirs_parse, first = 0, 0.0, 0.0, []
    by_expression = {}
    for path in pages:
        (dumped,) = run(program, "dump", path)
        (evaluated,) = run(program, "evaluate", HERE / "expressions.txt", path)
        html = Path(path).read_bytes()
        parse_secs = math.inf
        for _ in range(ROUNDS):
            start = time.perf_counter()
            lxml.html.document_fromstring(html)
            parse_secs = min(parse_secs, time.perf_counter() - start)
        theirs_parse += parse_secs
        n_bytes += len(html)
        ours_parse += evaluated["parse_secs"]
        first.append(evaluated["first_secs"])
        try:
            page = Page(dumped)
        except ValueError as error:
            print(f"{path}: lxml cannot hold this tree: {error}")
            continue
        answers = zip(expressions, evaluated["results"], evaluate(page, expressions, ROUNDS))
        for expression, ours, theirs in answers:
            n_all += 1
            if is_same(ours, theirs):
                n_same += 1
            else:
                print(f"{path}: {expression}\n  ours {short(ours)}\n  lxml {short(theirs)}")
            if "secs" in ours and "secs" in theirs:
                by_expression.setdefault(expression, []).append((ours["secs"], theirs["secs"]))
                ours_secs.append(ours["secs"])
                theirs_secs.append(theirs["secs"])
    print(f"{len(pages)} pages, {n_bytes} bytes, {len(expressions)} expressions: {n_same} of {n_all} agree")
    for name, secs, parse in (("ours", ours_secs, ours_parse), ("lxml", theirs_secs, theirs_parse)):
        print(
            f"{name}: mean {statistics.mean(secs) * 1e6:.1f} us, median {statistics.median(secs) * 1e6:.1f} us,"
            f" largest {max(secs) * 1e6:.0f} us; parse {n_bytes / parse / 1e6:.1f} MB/s"
        )
    means = {text: [statistics.mean(column) * 1e6 for column in zip(*secs)] for text, secs in by_expression.items()}
    for text in sorted(means, key=lambda text: -means[text][0])[:N_SLOWEST]:
        print(f"    {text}: ours {means[text][0]:.0f} us, lxml {means[text][1]:.0f} us")
    print(f"first evaluation on a page, index included: mean {statistics.mean(first) * 1e6:.1f} us")


def main():
    program, *pages = sys.argv[1:]
    expressions = (HERE / "expressions.txt").read_text().splitlines()
    if pages:
        return compare(program, expressions, pages)
    golden = {}
    for path in sorted((HERE / "pages").glob("*.html")):
        (dumped,) = run(program, "dump", path)
        results = list(evaluate(Page(dumped), expressions, 1))
        golden[path.name] = [result.get("value", "error" if "error" in result else "refused") for result in results]
    lines = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(value) for value in values) + "\n]"
        for name, values in golden.items()
    )
    (HERE / "golden.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
