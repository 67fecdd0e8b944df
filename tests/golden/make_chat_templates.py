"""Renders `chat_templates/*.jinja` with Jinja2, set up as `transformers` does, into `chat_templates/expected.json`.

The templates are written after the published formats of well-known models, in words of their own.
"""

import json
from pathlib import Path

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = Path(__file__).parent / "chat_templates"
SYSTEM = {"role": "system", "content": " Be brief. "}
TURNS = [
    {"role": "user", "content": "Grüße, <b>\"it's\" & 中</b>\n"},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\n Hi! "},
    {"role": "user", "content": "a\\b {{ 1 }}"},
]
CHATS = {"one": TURNS[:1], "system": [SYSTEM, *TURNS[:1]], "long": [SYSTEM, *TURNS], "answered": [SYSTEM, *TURNS[:2]]}
CHATS["twice"] = [TURNS[0], TURNS[0]]


class Generation(Extension):
    """`{% generation %}` gives its content."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def refuse(message):
    raise TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = to_json
    env.globals.update(raise_exception=refuse, strftime_now=lambda form: form)
    expected = {}
    for path in sorted(FOLDER.glob("*.jinja")):
        template = env.from_string(path.read_text())
        for name, messages in CHATS.items():
            context = {"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None}
            try:
                text = template.render(messages=messages, add_generation_prompt=True, **context)
            except TemplateError as error:
                text = {"error": str(error)}
            expected.setdefault(path.stem, {})[name] = text
    document = {"chats": CHATS, "expected": expected}
    (FOLDER / "expected.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    print(len(expected), "templates,", len(CHATS), "chats")


if __name__ == "__main__":
    main()
