//! Plans to nodes.
//!
//! A path goes step by step: from all nodes that the step before found, in document order and each once, to all
//! that this step finds. Vectors of nodes are taken from a pool, so that predicates allocate nothing. Every node
//! looked at costs a step of a budget, and long strings cost more.

use super::axes::{Walk, listed, passes};
use super::error::{Reason, XPathError};
use super::lexer::is_space;
use super::node::Node;
use super::plan::{Nodes, Path, Plan, Predicate, Start, Step, Test};
use super::syntax::Axis;
use super::value::Value;
use crate::dom::{Document, NodeId};

/// What an expression is evaluated for: a node, and where it stands among its like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context {
    pub(super) node: Node,
    pub(super) position: usize,
    pub(super) size: usize,
}

/// One evaluation of one plan.
pub(super) struct Evaluation<'a> {
    pub(super) document: &'a Document,
    budget: u64,
    budget_left: u64,
    pool: Vec<Vec<Node>>,
}

/// Whether to go on.
type Visit<'v, 'a> = &'v mut dyn FnMut(&mut Evaluation<'a>, Node) -> Result<bool, XPathError>;

impl<'a> Evaluation<'a> {
    pub(super) fn new(document: &'a Document, budget: u64) -> Self {
        Self { document, budget, budget_left: budget, pool: Vec::new() }
    }

    pub(super) fn value(&mut self, plan: &'a Plan, node: NodeId) -> Result<Value, XPathError> {
        let context = Context { node: node.into(), position: 1, size: 1 };
        Ok(match plan {
            Plan::Nodes(nodes) => Value::Nodes(self.collect(nodes, context, usize::MAX)?),
            Plan::Text(text) => Value::Text(self.text(text, context)?.into_owned()),
            Plan::Number(number) => Value::Number(self.number(number, context)?),
            Plan::Bool(bool) => Value::Bool(self.bool(bool, context)?),
        })
    }

    /// Takes steps from the budget.
    pub(super) fn spend(&mut self, n_steps: usize) -> Result<(), XPathError> {
        let left = self.budget_left.checked_sub(n_steps as u64);
        self.budget_left = left.ok_or_else(|| XPathError::new(0, Reason::Budget(self.budget)))?;
        Ok(())
    }

    /// The nodes in document order, each once; with a limit, the first so many or more.
    pub(super) fn collect(
        &mut self,
        nodes: &'a Nodes,
        context: Context,
        limit: usize,
    ) -> Result<Vec<Node>, XPathError> {
        let mut found = self.take_vec();
        match nodes {
            Nodes::Path(path) => {
                let Some((last, before)) = path.steps.split_last() else {
                    self.put_back(found);
                    return self.start(path, context);
                };
                let contexts = self.contexts(path, before, context)?;
                self.step(last, &contexts, limit, &mut found)?;
                self.put_back(contexts);
            }
            Nodes::Union(parts) => {
                for part in parts {
                    let nodes = self.collect(part, context, limit)?;
                    found.extend_from_slice(&nodes);
                    self.put_back(nodes);
                }
                sort(&mut found);
            }
            Nodes::Filter { base, predicates } => {
                let limit = match predicates.first() {
                    Some(Predicate::Nth(n) | Predicate::UpTo(n)) => *n,
                    _ => usize::MAX,
                };
                self.put_back(found);
                found = self.collect(base, context, limit)?;
                self.filter(predicates, &mut found)?;
            }
            Nodes::Id(ids) => {
                let ids = self.text(ids, context)?;
                self.with_ids(&ids, &mut found)?;
                sort(&mut found);
            }
            Nodes::IdOfEach(nodes) => {
                let holders = self.collect(nodes, context, usize::MAX)?;
                for &holder in &holders {
                    self.with_ids(holder.text(self.document), &mut found)?;
                }
                self.put_back(holders);
                sort(&mut found);
            }
            Nodes::Fail(error) => return Err((**error).clone()),
        }
        Ok(found)
    }

    /// Shows the nodes to `visit`, in any order and perhaps some of them twice, until it has seen enough.
    pub(super) fn each(
        &mut self,
        nodes: &'a Nodes,
        context: Context,
        visit: Visit<'_, 'a>,
    ) -> Result<(), XPathError> {
        if let Nodes::Path(path) = nodes
            && let Some((last, before)) = path.steps.split_last()
        {
            let contexts = self.contexts(path, before, context)?;
            self.walk(last, &contexts, visit)?;
            self.put_back(contexts);
            return Ok(());
        }
        let found = self.collect(nodes, context, usize::MAX)?;
        for &node in &found {
            if !visit(self, node)? {
                break;
            }
        }
        self.put_back(found);
        Ok(())
    }

    pub(super) fn first(&mut self, nodes: &'a Nodes, context: Context) -> Result<Option<Node>, XPathError> {
        let found = self.collect(nodes, context, 1)?;
        let first = found.first().copied();
        self.put_back(found);
        Ok(first)
    }

    /// What the first steps of a path lead to.
    fn contexts(
        &mut self,
        path: &'a Path,
        steps: &'a [Step],
        context: Context,
    ) -> Result<Vec<Node>, XPathError> {
        let mut current = self.start(path, context)?;
        for step in steps {
            let mut next = self.take_vec();
            self.step(step, &current, usize::MAX, &mut next)?;
            self.put_back(std::mem::replace(&mut current, next));
        }
        Ok(current)
    }

    fn start(&mut self, path: &'a Path, context: Context) -> Result<Vec<Node>, XPathError> {
        let node = match &path.start {
            Start::Root => self.document.root().into(),
            Start::Context => context.node,
            Start::Nodes(nodes) => return self.collect(nodes, context, usize::MAX),
        };
        let mut start = self.take_vec();
        start.push(node);
        Ok(start)
    }

    /// One step from all of `contexts`, into document order.
    fn step(
        &mut self,
        step: &'a Step,
        contexts: &[Node],
        limit: usize,
        found: &mut Vec<Node>,
    ) -> Result<(), XPathError> {
        let limit = if limit < usize::MAX && walks_in_order(step, contexts) { limit } else { usize::MAX };
        // Reached only by nodes found many times over.
        let mut crowded = 2 * self.document.len() + 1024;
        self.walk(step, contexts, &mut |_, node| {
            found.push(node);
            if found.len() > crowded {
                sort(found);
                crowded = crowded.max(2 * found.len());
            }
            Ok(found.len() < limit)
        })?;
        if step.is_reverse() {
            found.reverse();
        }
        sort(found);
        Ok(())
    }

    /// One step from all of `contexts`, each node shown to `visit` as it is found.
    fn walk(&mut self, step: &'a Step, contexts: &[Node], visit: Visit<'_, 'a>) -> Result<(), XPathError> {
        let document = self.document;
        if let Test::ParentOf(name) = &step.test {
            let mut covered = 0;
            for context in contexts.iter().filter(|context| !context.is_attribute()) {
                let (from, to) = (context.id().number() + 1, document.end(context.id()));
                let mut last = None;
                for &child in listed(document.index().named(name), from.max(covered), to) {
                    self.spend(1)?;
                    let parent = document.parent(NodeId::at(child));
                    if parent != last
                        && let Some(parent) = parent
                        && !visit(self, parent.into())?
                    {
                        return Ok(());
                    }
                    last = parent;
                }
                covered = covered.max(to);
            }
            return Ok(());
        }
        if step.is_positional {
            let mut found = self.take_vec();
            for &context in contexts {
                found.clear();
                self.walk_counting(step, context, &mut found)?;
                for &node in &found {
                    if !visit(self, node)? {
                        self.put_back(found);
                        return Ok(());
                    }
                }
            }
            self.put_back(found);
            return Ok(());
        }
        // What several contexts share is walked once.
        let end = |node: &&Node| document.end(node.id());
        let contexts = match step.axis {
            Axis::Following => contexts.iter().min_by_key(end).map_or(&[][..], std::slice::from_ref),
            Axis::Preceding => contexts.last().map_or(&[][..], std::slice::from_ref),
            _ => contexts,
        };
        let is_downwards = matches!(step.axis, Axis::Descendant | Axis::DescendantOrSelf);
        let mut covered = 0;
        for &context in contexts {
            self.spend(1)?;
            if is_downwards && !context.is_attribute() {
                let end = document.end(context.id());
                if end <= covered {
                    continue;
                }
                covered = end;
            }
            'nodes: for node in Walk::new(document, step, context) {
                self.spend(1)?;
                if !passes(document, step, node) {
                    continue;
                }
                for predicate in &step.predicates {
                    let holds = match predicate {
                        Predicate::Holds(bool) => self.bool(bool, Context { node, position: 1, size: 1 })?,
                        _ => unreachable!("predicates that count make a step positional"),
                    };
                    if !holds {
                        continue 'nodes;
                    }
                }
                if !visit(self, node)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One step from one node, with predicates that count.
    fn walk_counting(
        &mut self,
        step: &'a Step,
        context: Node,
        found: &mut Vec<Node>,
    ) -> Result<(), XPathError> {
        let enough = match step.predicates.first() {
            Some(Predicate::Nth(n) | Predicate::UpTo(n)) => *n,
            _ => usize::MAX,
        };
        self.spend(1)?;
        for node in Walk::new(self.document, step, context) {
            self.spend(1)?;
            if passes(self.document, step, node) {
                found.push(node);
                if found.len() >= enough {
                    break;
                }
            }
        }
        self.filter(&step.predicates, found)
    }

    /// Keeps the nodes for which all predicates hold, each predicate counting those that the one before left.
    fn filter(&mut self, predicates: &'a [Predicate], nodes: &mut Vec<Node>) -> Result<(), XPathError> {
        for predicate in predicates {
            let kept = match predicate {
                Predicate::Nth(n) => nodes.get(n - 1).copied(),
                Predicate::Last => nodes.last().copied(),
                Predicate::UpTo(n) => {
                    nodes.truncate(*n);
                    continue;
                }
                Predicate::Holds(bool) => {
                    let (size, mut n_kept) = (nodes.len(), 0);
                    for at in 0..size {
                        self.spend(1)?;
                        let node = nodes[at];
                        if self.bool(bool, Context { node, position: at + 1, size })? {
                            nodes[n_kept] = node;
                            n_kept += 1;
                        }
                    }
                    nodes.truncate(n_kept);
                    continue;
                }
            };
            nodes.clear();
            nodes.extend(kept);
        }
        Ok(())
    }

    /// For each id, the first element that has it.
    fn with_ids(&mut self, ids: &str, found: &mut Vec<Node>) -> Result<(), XPathError> {
        let document = self.document;
        let holders = document.index().with_attribute(&html5ever::local_name!("id"));
        for id in ids.split(is_space).filter(|id| !id.is_empty()) {
            self.spend(holders.len())?;
            let has_id = |&&number: &&u32| document.attribute(NodeId::at(number), "id") == Some(id);
            found.extend(holders.iter().find(has_id).map(|&number| Node::from(NodeId::at(number))));
        }
        Ok(())
    }

    fn take_vec(&mut self) -> Vec<Node> {
        self.pool.pop().unwrap_or_default()
    }

    pub(super) fn put_back(&mut self, mut nodes: Vec<Node>) {
        nodes.clear();
        self.pool.push(nodes);
    }
}

impl Step {
    fn is_reverse(&self) -> bool {
        matches!(self.axis, Axis::Ancestor | Axis::AncestorOrSelf | Axis::Preceding | Axis::PrecedingSibling)
    }
}

/// Whether the nodes of a step come in document order.
fn walks_in_order(step: &Step, contexts: &[Node]) -> bool {
    if step.is_reverse() || matches!(step.test, Test::ParentOf(_)) {
        return false;
    }
    match step.axis {
        _ if contexts.len() <= 1 => true,
        Axis::Itself | Axis::Attribute => true,
        Axis::Following => !step.is_positional,
        Axis::Descendant | Axis::DescendantOrSelf => {
            !step.is_positional && contexts.iter().all(|context| !context.is_attribute())
        }
        _ => false,
    }
}

/// Document order, each node once. Most steps find their nodes so.
fn sort(nodes: &mut Vec<Node>) {
    if !nodes.is_sorted_by(|one, next| one < next) {
        nodes.sort_unstable();
        nodes.dedup();
    }
}
