//! The part of a page that its reader came for.
//!
//! 1. Every visible node is judged by name (`boilerplate.rs`), and the characters below each element are counted:
//!    all of them, those in links, and those in *prose*, blocks of some length that are not mostly links.
//! 2. Furniture is dropped, unless most of the page's prose is in it.
//! 3. The content is `<main>` or `<article>` where that holds most of the prose left. Elsewhere it is the element
//!    with the largest surplus of prose over other text: going up the tree, it gains paragraphs until it starts
//!    to collect clutter.
//! 4. Lists of links at odds with a page of prose are dropped, and the rest is written down (`render.rs`).

use html5ever::local_name as name;

use crate::boilerplate::{Verdict, judge};
use crate::dom::{Document, NodeId, NodeKind};
use crate::element::{Part, part};
use crate::encoding::decode;
use crate::render::render;

/// What a page says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The `<title>`, or what stands in for it: `og:title`, the first heading.
    pub title: Option<String>,
    /// The main text: blocks with a blank line between, list items as `- item`, table cells separated by ` | `,
    /// code between lines of backticks. Empty if the page has none.
    pub text: String,
    /// The language as the page declares it, a tag such as `en` or `pt-BR`.
    pub language: Option<String>,
}

/// Decodes and parses a page and takes its main text; `charset_hint` is the charset of the HTTP content type.
///
/// Any bytes are a page, so there are no errors; at worst the text is empty.
pub fn extract(html: &[u8], charset_hint: Option<&str>) -> Page {
    main_text(&Document::parse(&decode(html, charset_hint)))
}

/// The main text of a parsed page. Takes time and memory in proportion to the page.
pub fn main_text(document: &Document) -> Page {
    let mut survey = Survey::new(document);
    survey.drop_furniture();
    let content = survey.content();
    survey.drop_link_lists(content);
    Page {
        title: title(document, content),
        text: render(document, content, &survey.dropped),
        language: language(document),
    }
}

fn title(document: &Document, content: NodeId) -> Option<String> {
    let all = || document.descendants(document.root());
    let named =
        |wanted| all().find(|&node| document.local_name(node) == Some(wanted) && document.is_html(node));
    named(&name!("title"))
        .map(|node| squeeze(document, node))
        .filter(|title| !title.is_empty())
        .or_else(|| {
            let meta = all().find(|&node| document.attribute(node, "property") == Some("og:title"))?;
            Some(document.attribute(meta, "content")?.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .or_else(|| {
            let is_heading = |node: &NodeId| document.local_name(*node) == Some(&name!("h1"));
            document.descendants(content).find(is_heading).map(|node| squeeze(document, node))
        })
        .filter(|title| !title.is_empty())
}

fn squeeze(document: &Document, node: NodeId) -> String {
    let text: String = document.text(node).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn language(document: &Document) -> Option<String> {
    let html = document.children(document.root()).find(|&node| document.name(node) == Some("html"))?;
    let declared = document.attribute(html, "lang").or_else(|| document.attribute(html, "xml:lang"));
    let declared = declared.or_else(|| {
        let head = document.children(html).find(|&node| document.name(node) == Some("head"))?;
        let is_language = |&node: &NodeId| {
            document
                .attribute(node, "http-equiv")
                .is_some_and(|value| value.eq_ignore_ascii_case("content-language"))
        };
        document.attribute(document.children(head).find(is_language)?, "content")
    })?;
    let tag = declared.trim();
    let is_tag = (2..=35).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_tag.then(|| tag.to_owned())
}

/// Shorter blocks are labels and buttons more often than sentences, in characters.
const PROSE_CHARS: u32 = 40;

/// A page with less prose may be an index: its lists of links are its content.
const ARTICLE_CHARS: u32 = 800;

/// What is said about a text and not in it is shorter, in characters.
const LABEL_CHARS: u32 = 300;

/// Counts of characters other than white space, below one node.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// All of them.
    text: u32,
    /// Those in links.
    linked: u32,
    /// Those in blocks of prose, links excluded.
    prose: u32,
    /// Those directly in the line that this node is a part of.
    line: u32,
    /// The same, in links.
    line_linked: u32,
}

/// What is known about each node of one page.
struct Survey<'a> {
    document: &'a Document,
    /// Visible nodes in document order, with their parts.
    order: Vec<(NodeId, Part)>,
    counts: Vec<Count>,
    verdicts: Vec<Verdict>,
    dropped: Vec<bool>,
}

impl<'a> Survey<'a> {
    fn new(document: &'a Document) -> Self {
        let mut survey = Self {
            document,
            order: Vec::with_capacity(document.len()),
            counts: vec![Count::default(); document.len()],
            verdicts: vec![Verdict::Content; document.len()],
            dropped: vec![false; document.len()],
        };
        survey.look();
        survey.count();
        survey
    }

    /// Lists what is visible and judges it.
    fn look(&mut self) {
        let document = self.document;
        let root = document.root();
        let mut next = document.first_child(root);
        // The outermost `<main>` or `<article>` around the node at hand.
        let mut content_end: Option<Option<NodeId>> = None;
        let mut pre_end: Option<Option<NodeId>> = None;
        while let Some(node) = next {
            if content_end == Some(Some(node)) {
                content_end = None;
            }
            if pre_end == Some(Some(node)) {
                pre_end = None;
            }
            let local = document.local_name(node);
            let part = local.map_or(Part::Inline, part);
            if part == Part::Nothing {
                self.dropped[node.index()] = true;
                next = document.next_outside(node, root);
                continue;
            }
            if let Some(local) = local {
                let verdict = judge(document, node, part, content_end.is_some(), pre_end.is_some());
                if verdict == Verdict::Certain || part == Part::Link && is_control(document, node) {
                    self.dropped[node.index()] = true;
                    next = document.next_outside(node, root);
                    continue;
                }
                self.verdicts[node.index()] = verdict;
                if content_end.is_none() && matches!(*local, name!("main") | name!("article")) {
                    content_end = Some(document.next_outside(node, root));
                }
                if pre_end.is_none() && part == Part::Pre {
                    pre_end = Some(document.next_outside(node, root));
                }
            }
            self.order.push((node, part));
            next = document.first_child(node).or_else(|| document.next_outside(node, root));
        }
    }

    /// Counts characters from the leaves up, leaving out what is dropped.
    fn count(&mut self) {
        self.counts.fill(Count::default());
        for &(node, part) in self.order.iter().rev() {
            if self.dropped[node.index()] {
                continue;
            }
            let mut count = self.counts[node.index()];
            if self.document.kind(node) == NodeKind::Text {
                let text = self.document.value(node).unwrap_or_default();
                // Bytes that start a character and are not white space.
                let n_chars = text.bytes().filter(|byte| *byte > b' ' && (*byte as i8) >= -64).count() as u32;
                count = Count { text: n_chars, line: n_chars, ..Count::default() };
            }
            if part == Part::Link {
                count.linked = count.text;
                count.line_linked = count.line;
            }
            if part.is_block() {
                let is_prose = match part {
                    Part::Heading => false,
                    Part::Pre => count.line_linked * 2 <= count.line,
                    _ => {
                        let unlinked = count.line - count.line_linked;
                        unlinked >= PROSE_CHARS || count.line >= PROSE_CHARS && unlinked * 2 >= count.line
                    }
                };
                if is_prose {
                    count.prose += count.line - count.line_linked;
                }
                (count.line, count.line_linked) = (0, 0);
            }
            self.counts[node.index()] = count;
            if let Some(parent) = self.document.parent(node) {
                let above = &mut self.counts[parent.index()];
                above.text += count.text;
                above.linked += count.linked;
                above.prose += count.prose;
                above.line += count.line;
                above.line_linked += count.line_linked;
            }
        }
    }

    fn of(&self, node: NodeId) -> Count {
        self.counts[node.index()]
    }

    /// Drops what is furniture by name and does not hold most of the page's prose.
    fn drop_furniture(&mut self) {
        let all = self.of(self.document.root());
        for position in 0..self.order.len() {
            let (node, _) = self.order[position];
            let is_below = self.document.parent(node).is_some_and(|parent| self.dropped[parent.index()]);
            let holds_most = self.of(node).prose * 2 > all.prose;
            let is_furniture = match self.verdicts[node.index()] {
                Verdict::Content => false,
                Verdict::Label => self.of(node).text < LABEL_CHARS,
                Verdict::Likely => !holds_most,
                Verdict::Certain => true,
            };
            self.dropped[node.index()] |= is_below || is_furniture;
        }
        self.count();
    }

    /// The element that holds the content.
    fn content(&self) -> NodeId {
        let root = self.document.root();
        let mut content = root;
        let semantic: [fn(&Document, NodeId) -> bool; 3] = [
            |document, node| {
                document.local_name(node) == Some(&name!("main"))
                    || document.attribute(node, "role") == Some("main")
            },
            |document, node| document.local_name(node) == Some(&name!("article")),
            |document, node| document.attribute(node, "itemprop") == Some("articleBody"),
        ];
        for is_wanted in semantic {
            let (mut best, mut second) = (None, 0);
            for node in self.within(content).filter(|&node| is_wanted(self.document, node)) {
                let prose = self.of(node).prose;
                match best {
                    Some((_, most)) if prose <= most => second = second.max(prose),
                    _ => {
                        second = best.map_or(0, |(_, most)| most);
                        best = Some((node, prose));
                    }
                }
            }
            // One that holds most of the text, or a long one among teasers.
            if let Some((best, prose)) = best
                && (prose * 2 >= self.of(content).prose
                    || prose > 500 && prose * 5 > self.of(content).prose && prose > 4 * second)
            {
                content = best;
            }
        }
        if content != root {
            return content;
        }
        let surplus = |&node: &NodeId| {
            let count = self.of(node);
            // Short text that is not linked weighs most against an element: links belong into prose too.
            let rest = i64::from(count.text) - i64::from(count.linked) - i64::from(count.prose);
            2 * i64::from(count.prose) - i64::from(count.linked) - 2 * rest
        };
        // Of equals, the last in document order is the deepest.
        let is_block = |part: &Part| part.is_block();
        self.order
            .iter()
            .filter(|(node, part)| is_block(part) && !self.dropped[node.index()] && self.of(*node).prose > 0)
            .map(|(node, _)| *node)
            .max_by_key(surplus)
            .unwrap_or(root)
    }

    fn within(&self, top: NodeId) -> impl Iterator<Item = NodeId> {
        self.document.descendants(top).filter(|node| !self.dropped[node.index()])
    }

    /// Drops lists of links from a page of prose: other articles, tags, sections. Pages with code keep theirs,
    /// since in documentation a list of links is content.
    fn drop_link_lists(&mut self, content: NodeId) {
        let all = self.of(content);
        let has_code = self.within(content).any(|node| {
            self.document.local_name(node).is_some_and(|local| matches!(part(local), Part::Pre | Part::Code))
        });
        if has_code || all.prose * 2 < all.text || all.prose < ARTICLE_CHARS {
            return;
        }
        for position in 0..self.order.len() {
            let (node, part) = self.order[position];
            let count = self.of(node);
            if part.is_block()
                && !matches!(part, Part::Heading | Part::Item | Part::Row | Part::Cell)
                && count.prose == 0
                && count.linked * 2 > count.text
                && count.text > 0
            {
                self.dropped[node.index()] = true;
            }
        }
    }
}

/// Whether a link is a handle on the text rather than a part of it: the `§` beside a heading, "read more".
fn is_control(document: &Document, node: NodeId) -> bool {
    let is_local = document.attribute(node, "href").is_some_and(|href| href.contains('#'));
    let is_source = document.attribute(node, "class").is_some_and(|class| class.starts_with("src"));
    let text = document.text(node).flat_map(str::chars).filter(|c| !c.is_whitespace());
    let text: String = text.take(16).flat_map(char::to_lowercase).collect();
    match text.as_str() {
        "" => is_local,
        "source" | "[src]" | "[source]" => is_source,
        "readmore" | "readmore…" | "readmore..." | "continuereading" | "[edit]" | "editthispage"
        | "suggestanedit" => true,
        _ if !is_local => false,
        _ => text.starts_with('↩') || text.chars().count() == 1 && !text.starts_with(char::is_alphanumeric),
    }
}
