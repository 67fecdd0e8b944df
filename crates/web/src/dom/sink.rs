//! What stands between html5ever and the tree.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult};
use html5ever::tree_builder::TreeBuilder;
use html5ever::{Attribute as ParsedAttribute, LocalName, QualName, local_name, ns};

use super::tree::{Data, Tree};
use super::{Attribute, Limits, NodeId, ROOT};

/// Between tokenizer and tree builder: drops start tags at the depth limit, and everything when full.
///
/// The tree builder searches its stack of open elements at most tags, so without this, nesting costs quadratic
/// time. The end tag of a dropped start tag is dropped too; text goes on to the element that is open.
pub(super) struct Filter {
    pub(super) builder: TreeBuilder<NodeId, Sink>,
    pub(super) limits: Limits,
    /// Names of the dropped start tags whose end tags are still to come.
    pub(super) skipped: RefCell<Vec<LocalName>>,
}

/// An end tag is matched with this many of the dropped start tags before it.
const SKIPPED_LOOKBACK: usize = 16;

impl Filter {
    pub(super) fn is_full(&self) -> bool {
        self.builder.sink.tree.borrow().nodes.len() >= self.limits.n_nodes
    }

    fn is_dropped(&self, tag: &Tag) -> bool {
        let mut skipped = self.skipped.borrow_mut();
        match tag.kind {
            TagKind::StartTag => {
                let too_deep = self.builder.sink.depth.get() + 1 >= self.limits.depth;
                if !too_deep || is_leaf(&tag.name) {
                    return false;
                }
                skipped.push(tag.name.clone());
                true
            }
            TagKind::EndTag if skipped.is_empty() => false,
            TagKind::EndTag => {
                let from = skipped.len().saturating_sub(SKIPPED_LOOKBACK);
                let found = skipped[from..].iter().rposition(|name| *name == tag.name);
                if let Some(position) = found {
                    skipped.truncate(from + position);
                }
                found.is_some()
            }
        }
    }
}

impl TokenSink for Filter {
    type Handle = NodeId;

    fn process_token(&self, token: Token, line: u64) -> TokenSinkResult<NodeId> {
        match &token {
            Token::ParseError(_) => return TokenSinkResult::Continue,
            Token::TagToken(tag) if self.is_full() || self.is_dropped(tag) => {
                return TokenSinkResult::Continue;
            }
            _ => {}
        }
        self.builder.process_token(token, line)
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// Elements that hold no elements; some of them also switch the tokenizer, so they must reach the tree builder.
fn is_leaf(name: &LocalName) -> bool {
    matches!(
        *name,
        local_name!("area")
            | local_name!("base")
            | local_name!("br")
            | local_name!("col")
            | local_name!("embed")
            | local_name!("hr")
            | local_name!("iframe")
            | local_name!("img")
            | local_name!("input")
            | local_name!("link")
            | local_name!("meta")
            | local_name!("noembed")
            | local_name!("noframes")
            | local_name!("param")
            | local_name!("plaintext")
            | local_name!("script")
            | local_name!("source")
            | local_name!("style")
            | local_name!("textarea")
            | local_name!("title")
            | local_name!("track")
            | local_name!("wbr")
            | local_name!("xmp")
    )
}

/// What html5ever builds into.
pub(super) struct Sink {
    tree: RefCell<Tree>,
    /// The depth of the node that the tree builder is at.
    depth: Cell<usize>,
    /// Most bytes of attribute values: the tree builder copies formatting elements, and a long value copied for
    /// each paragraph would fill the memory.
    value_bytes: usize,
}

impl Sink {
    pub(super) fn new(limits: &Limits, html_bytes: usize) -> Self {
        let n_nodes = (html_bytes / 32).min(limits.n_nodes);
        let tree = Tree::new(n_nodes, html_bytes / 8);
        let value_bytes = html_bytes.saturating_mul(2).min(u32::MAX as usize);
        Self { tree: RefCell::new(tree), depth: Cell::new(0), value_bytes }
    }

    fn add_attributes(&self, tree: &mut Tree, attributes: Vec<ParsedAttribute>) {
        for ParsedAttribute { name, value } in attributes {
            if tree.values.len() + value.len() > self.value_bytes {
                tree.truncated = true;
                continue;
            }
            let start = tree.values.len() as u32;
            tree.values.push_str(&value);
            let value = start..tree.values.len() as u32;
            tree.attributes.push(Attribute { name: written_name(name), value });
        }
    }

    /// Makes text a part of its left neighbour if that is text too, as the standard wants.
    fn node_for(&self, previous: Option<NodeId>, child: NodeOrText<NodeId>) -> Option<NodeId> {
        let mut tree = self.tree.borrow_mut();
        match child {
            NodeOrText::AppendNode(node) => {
                tree.detach(node);
                Some(node)
            }
            NodeOrText::AppendText(new) => {
                if let Some(previous) = previous
                    && let Data::Text(text) = &mut tree.nodes[previous.index()].data
                {
                    text.push_tendril(&new);
                    return None;
                }
                Some(tree.push(Data::Text(new)))
            }
        }
    }
}

impl TreeSink for Sink {
    type Handle = NodeId;
    type Output = Tree;
    type ElemName<'a> = std::cell::Ref<'a, QualName>;

    fn finish(self) -> Tree {
        self.tree.into_inner()
    }

    fn parse_error(&self, _message: Cow<'static, str>) {}

    fn get_document(&self) -> NodeId {
        ROOT
    }

    fn elem_name<'a>(&'a self, target: &'a NodeId) -> Self::ElemName<'a> {
        std::cell::Ref::map(self.tree.borrow(), |tree| match &tree.nodes[target.index()].data {
            Data::Element { name, .. } => name,
            _ => panic!("the tree builder asks only elements for their names"),
        })
    }

    fn create_element(
        &self,
        name: QualName,
        attributes: Vec<ParsedAttribute>,
        _flags: ElementFlags,
    ) -> NodeId {
        let mut tree = self.tree.borrow_mut();
        let start = tree.attributes.len() as u32;
        self.add_attributes(&mut tree, attributes);
        let end = tree.attributes.len() as u32;
        tree.push(Data::Element { name, attributes: start..end })
    }

    fn create_comment(&self, text: StrTendril) -> NodeId {
        self.tree.borrow_mut().push(Data::Comment(text))
    }

    fn create_pi(&self, _target: StrTendril, data: StrTendril) -> NodeId {
        self.create_comment(data)
    }

    fn append(&self, parent: &NodeId, child: NodeOrText<NodeId>) {
        let last = self.tree.borrow().node(*parent).last_child.get();
        if let Some(node) = self.node_for(last, child) {
            let mut tree = self.tree.borrow_mut();
            tree.append(*parent, node);
            self.depth.set(tree.nodes[node.index()].depth as usize);
            if matches!(tree.nodes[node.index()].data, Data::Text(_)) {
                self.depth.set(self.depth.get() - 1);
            }
        }
    }

    fn append_based_on_parent_node(&self, element: &NodeId, previous: &NodeId, child: NodeOrText<NodeId>) {
        if self.tree.borrow().node(*element).parent.get().is_some() {
            self.append_before_sibling(element, child);
        } else {
            self.append(previous, child);
        }
    }

    fn append_doctype_to_document(&self, _name: StrTendril, _public: StrTendril, _system: StrTendril) {}

    fn pop(&self, node: &NodeId) {
        self.depth.set((self.tree.borrow().nodes[node.index()].depth as usize).saturating_sub(1));
    }

    fn get_template_contents(&self, target: &NodeId) -> NodeId {
        *target
    }

    fn same_node(&self, x: &NodeId, y: &NodeId) -> bool {
        x == y
    }

    fn set_quirks_mode(&self, _mode: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &NodeId, child: NodeOrText<NodeId>) {
        let previous = self.tree.borrow().node(*sibling).previous.get();
        if let Some(node) = self.node_for(previous, child) {
            let mut tree = self.tree.borrow_mut();
            tree.insert_before(*sibling, node);
            self.depth.set(tree.nodes[node.index()].depth as usize);
        }
    }

    fn add_attrs_if_missing(&self, target: &NodeId, attributes: Vec<ParsedAttribute>) {
        let mut tree = self.tree.borrow_mut();
        let Data::Element { attributes: range, .. } = &tree.nodes[target.index()].data else { return };
        let old = tree.attributes[range.start as usize..range.end as usize].to_vec();
        let missing: Vec<_> = attributes
            .into_iter()
            .filter(|new| old.iter().all(|attribute| attribute.name != written_name(new.name.clone())))
            .collect();
        if missing.is_empty() {
            return;
        }
        let start = tree.attributes.len() as u32;
        tree.attributes.extend(old);
        self.add_attributes(&mut tree, missing);
        let end = tree.attributes.len() as u32;
        if let Data::Element { attributes, .. } = &mut tree.nodes[target.index()].data {
            *attributes = start..end;
        }
    }

    fn remove_from_parent(&self, target: &NodeId) {
        self.tree.borrow_mut().detach(*target);
    }

    fn reparent_children(&self, node: &NodeId, new_parent: &NodeId) {
        let mut tree = self.tree.borrow_mut();
        while let Some(child) = tree.node(*node).first_child.get() {
            tree.detach(child);
            tree.append(*new_parent, child);
        }
    }

    fn allow_declarative_shadow_roots(&self, _intended_parent: &NodeId) -> bool {
        false
    }

    fn is_mathml_annotation_xml_integration_point(&self, node: &NodeId) -> bool {
        let tree = self.tree.borrow();
        let Data::Element { name, attributes } = &tree.nodes[node.index()].data else { return false };
        let attributes = &tree.attributes[attributes.start as usize..attributes.end as usize];
        let is_html = |attribute: &Attribute| {
            let value = &tree.values[attribute.value.start as usize..attribute.value.end as usize];
            attribute.name == local_name!("encoding")
                && (value.eq_ignore_ascii_case("text/html")
                    || value.eq_ignore_ascii_case("application/xhtml+xml"))
        };
        name.ns == ns!(mathml)
            && name.local == local_name!("annotation-xml")
            && attributes.iter().any(is_html)
    }
}

/// The name of an attribute as it stands in the page. The standard splits `xlink:href` and a few more within SVG
/// and MathML; here they stay whole, so that no element has two attributes of one name.
fn written_name(name: QualName) -> LocalName {
    match name.prefix {
        Some(prefix) => LocalName::from(format!("{prefix}:{}", name.local)),
        None => name.local,
    }
}
