//! Elements to lines of text.
//!
//! One walk over the tree, down and up along its links, without recursion. White space is never written when it is
//! met: it is remembered as the widest gap wanted, and written before the next word.

use std::fmt::Write as _;

use crate::dom::{Document, NodeId, NodeKind};
use crate::element::{Part, part};

/// Writes the text below `top`, leaving out nodes marked in `dropped` (by [`NodeId::index`]).
pub(crate) fn render(document: &Document, top: NodeId, dropped: &[bool]) -> String {
    let mut writer = Writer::default();
    let mut node = top;
    loop {
        let is_kept = !dropped[node.index()];
        if is_kept {
            enter(&mut writer, document, node, dropped);
            if let Some(child) = document.first_child(node) {
                node = child;
                continue;
            }
            leave(&mut writer, document, node);
        }
        loop {
            if node == top {
                return writer.finish();
            }
            if let Some(next) = document.next_sibling(node) {
                node = next;
                break;
            }
            let Some(parent) = document.parent(node) else { return writer.finish() };
            node = parent;
            leave(&mut writer, document, node);
        }
    }
}

fn part_of(document: &Document, node: NodeId) -> Part {
    document.local_name(node).map_or(Part::Inline, part)
}

fn enter(writer: &mut Writer, document: &Document, node: NodeId, dropped: &[bool]) {
    match document.kind(node) {
        NodeKind::Text => return writer.text(document.value(node).unwrap_or_default()),
        NodeKind::Comment | NodeKind::Document => return,
        NodeKind::Element => {}
    }
    let part = part_of(document, node);
    if writer.pre.is_some() {
        match part {
            Part::Pre => writer.pre_depth += 1,
            Part::Break => writer.pre_line(true),
            part if part.is_block() => writer.pre_line(false),
            _ => {}
        }
        return;
    }
    match part {
        Part::Inline if is_badge(document, node) => writer.gap_before_word(),
        Part::Nothing | Part::Inline | Part::Link => {}
        Part::Code => writer.code_depth += 1,
        Part::Quote => writer.text("\""),
        Part::Superscript => match superscript(document, node) {
            Superscript::Reference => writer.text("["),
            Superscript::Exponent if writer.ends_with_word() => writer.text("^"),
            Superscript::Exponent | Superscript::Other => {}
        },
        Part::Break => writer.gap(Gap::Line),
        Part::Block => writer.gap(Gap::Line),
        Part::Paragraph => writer.gap(Gap::Block),
        Part::Heading => {
            writer.gap(Gap::Block);
            writer.flat_depth += 1;
        }
        Part::Pre => {
            writer.gap(Gap::Block);
            writer.pre = Some(String::new());
            writer.pre_depth = 1;
            writer.language = code_language(document, node).unwrap_or_default().to_owned();
        }
        Part::List => {
            let gap = if writer.lists.is_empty() { Gap::Block } else { Gap::Line };
            writer.gap(gap);
            let is_ordered = document.name(node) == Some("ol");
            let start = document.attribute(node, "start").and_then(|start| start.trim().parse().ok());
            writer.lists.push(is_ordered.then(|| start.unwrap_or(1)));
        }
        Part::Item => {
            let marker = match writer.lists.last_mut() {
                Some(Some(number)) => {
                    *number = number.saturating_add(1);
                    format!("{}. ", *number - 1)
                }
                _ => "- ".to_owned(),
            };
            writer.item(marker);
        }
        Part::Term => writer.item("- ".to_owned()),
        Part::Definition => {
            if writer.after_term {
                writer.after_term = false;
                writer.pending = Gap::None;
                let ends_with_colon = writer.out.ends_with(':');
                writer.marker = Some(if ends_with_colon { " " } else { ": " }.to_owned());
            } else {
                writer.gap(Gap::Line);
            }
            writer.indent += 2;
        }
        Part::Table => {
            writer.gap(Gap::Block);
            let is_data = is_data_table(document, node, dropped) && !writer.is_in_data_table();
            writer.tables.push(is_data);
        }
        Part::Row => {
            writer.gap(Gap::Line);
            if writer.is_in_data_table() {
                writer.start_row();
            }
        }
        Part::Cell => {
            if writer.is_in_data_table() {
                writer.cell();
            } else {
                writer.gap(Gap::Block);
            }
        }
    }
}

fn leave(writer: &mut Writer, document: &Document, node: NodeId) {
    if document.kind(node) != NodeKind::Element {
        return;
    }
    let part = part_of(document, node);
    if writer.pre.is_some() {
        match part {
            Part::Pre => {
                writer.pre_depth -= 1;
                if writer.pre_depth == 0 {
                    writer.end_pre();
                }
            }
            part if part.is_block() => writer.pre_line(false),
            _ => {}
        }
        return;
    }
    match part {
        Part::Inline if is_badge(document, node) => writer.gap_before_word(),
        Part::Superscript if superscript(document, node) == Superscript::Reference => writer.text("]"),
        Part::Nothing | Part::Inline | Part::Link | Part::Superscript | Part::Break | Part::Pre => {}
        Part::Code => writer.end_code(),
        Part::Quote => writer.text("\""),
        Part::Block => writer.gap(Gap::Line),
        Part::Paragraph => writer.gap(Gap::Block),
        Part::Heading => {
            writer.flat_depth -= 1;
            writer.gap(Gap::Block);
        }
        Part::List => {
            writer.lists.pop();
            let gap = if writer.lists.is_empty() { Gap::Block } else { Gap::Line };
            writer.gap(gap);
        }
        Part::Item => writer.end_item(),
        Part::Term => {
            let is_written = writer.marker.is_none();
            writer.end_item();
            writer.after_term = is_written;
        }
        Part::Definition => {
            writer.marker = None;
            writer.indent -= 2;
            writer.tighten();
        }
        Part::Table => {
            writer.tables.pop();
            writer.gap(Gap::Block);
        }
        Part::Row => writer.end_row(),
        Part::Cell => {
            if writer.is_in_data_table() {
                writer.flat_depth -= 1;
                writer.pending = Gap::None;
            } else {
                writer.gap(Gap::Block);
            }
        }
    }
}

/// What separates the last word from the next, from weak to strong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Space,
    Line,
    Block,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    /// Where the row's line begins, and where the text before it ended.
    start: usize,
    before: usize,
    n_cells: usize,
    has_text: bool,
}

#[derive(Debug, Default)]
struct Writer {
    out: String,
    pending: Gap,
    /// What starts the line of a list item, until its first word.
    marker: Option<String>,
    /// Spaces before each line.
    indent: usize,
    /// For each open list, the next number if it is ordered.
    lists: Vec<Option<i64>>,
    /// For each open table, whether it holds data rather than a layout.
    tables: Vec<bool>,
    row: Option<Row>,
    /// Whether a `<dt>` has just ended.
    after_term: bool,
    /// Above zero in headings and cells, which stay on one line.
    flat_depth: usize,
    code_depth: usize,
    /// Where the code within a line began, once it has a word.
    code_start: Option<usize>,
    /// Where the last code within a line ended.
    code_end: Option<usize>,
    /// The text of the open `<pre>`.
    pre: Option<String>,
    pre_depth: usize,
    language: String,
}

impl Writer {
    fn gap(&mut self, gap: Gap) {
        if self.flat_depth > 0 {
            self.pending = self.pending.max(gap.min(Gap::Space));
        } else if self.marker.is_none() {
            self.pending = self.pending.max(gap);
        }
    }

    /// Lets at most one line break follow: list items stay together.
    fn tighten(&mut self) {
        if self.flat_depth == 0 {
            self.pending = Gap::Line;
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(pre) = &mut self.pre {
            pre.push_str(text);
            return;
        }
        let mut is_first = true;
        for word in text.split([' ', '\n', '\t', '\r', '\x0c', '\u{a0}']) {
            if !is_first {
                self.gap_before_word();
            }
            is_first = false;
            if !word.is_empty() {
                self.word(word);
            }
        }
    }

    fn gap_before_word(&mut self) {
        self.pending = self.pending.max(Gap::Space);
    }

    fn word(&mut self, word: &str) {
        self.flush();
        if self.code_depth > 0 && self.code_start.is_none() {
            self.code_start = Some(self.out.len());
        }
        if let Some(row) = &mut self.row {
            row.has_text = true;
        }
        if word.contains(['\u{ad}', '\u{200b}', '\u{feff}']) {
            self.out.extend(word.chars().filter(|c| !matches!(c, '\u{ad}' | '\u{200b}' | '\u{feff}')));
        } else {
            self.out.push_str(word);
        }
    }

    fn flush(&mut self) {
        self.after_term = false;
        let gap = std::mem::take(&mut self.pending);
        if !self.out.is_empty() {
            match gap {
                Gap::None => {}
                Gap::Space if self.out.ends_with(['\n', ' ']) => {}
                Gap::Space if self.marker.is_some() => {}
                Gap::Space => self.out.push(' '),
                Gap::Line => self.out.push('\n'),
                Gap::Block => self.out.push_str("\n\n"),
            }
        }
        if matches!(gap, Gap::Line | Gap::Block) {
            self.out.extend(std::iter::repeat_n(' ', self.line_indent()));
        }
        if let Some(marker) = self.marker.take() {
            self.out.push_str(&marker);
        }
    }

    /// A marker hangs in the indentation of its item.
    fn line_indent(&self) -> usize {
        let hang = if self.marker.is_some() { 2 } else { 0 };
        self.indent.saturating_sub(hang).min(MAX_INDENT)
    }

    fn ends_with_word(&self) -> bool {
        self.pending == Gap::None && self.out.ends_with(|c: char| c.is_alphanumeric() || c == ')')
    }

    fn item(&mut self, marker: String) {
        self.marker = None;
        self.gap(Gap::Line);
        self.indent += 2;
        if self.flat_depth == 0 {
            self.marker = Some(marker);
        }
    }

    fn end_item(&mut self) {
        self.marker = None;
        self.indent -= 2;
        self.tighten();
        self.gap(Gap::Line);
    }

    fn end_code(&mut self) {
        self.code_depth -= 1;
        if self.code_depth > 0 {
            return;
        }
        let Some(start) = self.code_start.take() else { return };
        let n_ticks = longest_run(&self.out[start..]) + 1;
        if n_ticks > 1 {
            let ticks = "`".repeat(n_ticks);
            self.out.insert_str(start, &format!("{ticks} "));
            let _ = write!(self.out, " {ticks}");
        } else if self.code_end == Some(start) {
            // Code that follows code without a gap is one piece of code.
            self.out.remove(start - 1);
            self.out.push('`');
        } else {
            self.out.insert(start, '`');
            self.out.push('`');
        }
        self.code_end = (n_ticks == 1).then_some(self.out.len());
    }

    fn is_in_data_table(&self) -> bool {
        self.tables.last() == Some(&true)
    }

    fn start_row(&mut self) {
        let has_marker = self.marker.is_some();
        let before = self.out.len();
        self.flush();
        let start = self.out.len();
        let before = if has_marker { start } else { before };
        self.row = Some(Row { start, before, n_cells: 0, has_text: false });
    }

    fn cell(&mut self) {
        if let Some(row) = &mut self.row {
            if row.n_cells > 0 {
                self.out.push_str(if self.out.len() == row.start { "| " } else { " | " });
                self.pending = Gap::None;
            }
            row.n_cells += 1;
        }
        self.flat_depth += 1;
    }

    fn end_row(&mut self) {
        if let Some(row) = self.row.take() {
            if row.has_text {
                self.out.truncate(self.out.trim_end().len().max(row.start));
            } else {
                self.out.truncate(row.before);
            }
        }
        self.gap(Gap::Line);
    }

    /// A line break in `<pre>`; one that a block implies is left out where there is one already.
    fn pre_line(&mut self, is_break: bool) {
        if let Some(pre) = &mut self.pre
            && (is_break || !pre.is_empty() && !pre.ends_with('\n'))
        {
            pre.push('\n');
        }
    }

    fn end_pre(&mut self) {
        let pre = self.pre.take().unwrap_or_default();
        let code = pre.trim_end();
        let code = code.trim_start_matches(['\n', '\r']);
        if code.trim().is_empty() {
            return;
        }
        if self.flat_depth > 0 {
            return self.text(code);
        }
        self.flush();
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.truncate(self.out.trim_end_matches(' ').len());
            if !self.out.is_empty() && !self.out.ends_with('\n') {
                self.out.push('\n');
            }
        }
        let fence = "`".repeat(longest_run(code).max(2) + 1);
        let _ = write!(self.out, "{fence}{}\n{code}\n{fence}", self.language);
        self.gap(Gap::Block);
    }

    fn finish(mut self) -> String {
        self.out.truncate(self.out.trim_end().len());
        self.out
    }
}

/// Deeper lists are not indented further.
const MAX_INDENT: usize = 32;

fn longest_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for byte in text.bytes() {
        run = if byte == b'`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

/// Whether a span is a label that style sheets set apart from the words around it.
fn is_badge(document: &Document, node: NodeId) -> bool {
    let is_badge = |name| matches!(name, "stab" | "badge" | "emoji");
    document.attribute(node, "class").is_some_and(|class| class.split_ascii_whitespace().any(is_badge))
}

/// What a `<sup>` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Superscript {
    /// The number of a footnote, linked to it.
    Reference,
    /// A number, which must not be read together with the digits before it.
    Exponent,
    Other,
}

fn superscript(document: &Document, node: NodeId) -> Superscript {
    let mut text = document.text(node).flat_map(str::bytes).peekable();
    let is_number =
        text.peek().is_some() && text.take(16).all(|b| b.is_ascii_digit() || b == b'-' || b == b'+');
    let is_link = |node| document.attribute(node, "href").is_some_and(|href| href.starts_with('#'));
    match is_number {
        true if document.children(node).any(is_link) => Superscript::Reference,
        true => Superscript::Exponent,
        false => Superscript::Other,
    }
}

/// The language of a code block: `language-rust` or `lang-rust` in the class of `<pre>` or of the `<code>` below.
fn code_language(document: &Document, pre: NodeId) -> Option<&str> {
    let code = document.first_child(pre);
    [Some(pre), code].into_iter().flatten().find_map(|node| {
        let class = document.attribute(node, "class")?;
        class.split_ascii_whitespace().find_map(|name| {
            let language = match name {
                "rust" => Some("rust"),
                _ => name.strip_prefix("language-").or_else(|| name.strip_prefix("lang-")),
            }?;
            let is_plain = language.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-#_.".contains(&b));
            (is_plain && (1..=20).contains(&language.len())).then_some(language)
        })
    })
}

/// Whether a table holds data: several short cells in a row, and nothing in them that needs lines of its own.
fn is_data_table(document: &Document, table: NodeId, dropped: &[bool]) -> bool {
    let mut n_rows = 0_usize;
    let mut n_cells = 0_usize;
    let mut n_bytes = 0_usize;
    for node in document.descendants(table) {
        if let Some(value) = document.value(node) {
            n_bytes += value.len();
            continue;
        }
        if dropped[node.index()] {
            continue;
        }
        match part_of(document, node) {
            Part::Table | Part::Pre => return false,
            Part::Row => n_rows += 1,
            Part::Cell => n_cells += 1,
            _ => {}
        }
    }
    n_cells > n_rows && n_bytes < 400 * n_cells
}
