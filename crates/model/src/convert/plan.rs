//! Where the rows of each tensor of a new file lie in the old ones.

use elmwood_engine::{Heads, RowFormat};

use crate::error::TensorProblem;
use crate::local::names::{Naming, Part};
use crate::local::tensors::{Stored, TensorFiles};
use crate::{Architecture, Error, NormKind};

/// A tensor that is to be written.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) name: String,
    /// Sizes of the axes, slowest first.
    pub(super) shape: Vec<usize>,
    pub(super) content: Content,
}

/// What is in a tensor.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// All of a tensor that there is.
    Tensor(String),
    /// Rows of tensors that there are: which of `tensors`, and which row of it.
    Rows { tensors: Vec<String>, rows: Vec<(u32, u32)> },
    /// Numbers that no tensor holds.
    Values(Vec<f32>),
}

impl Outgoing {
    /// A tensor that only moves.
    pub(super) fn whole(name: &str, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.into(), content: Content::Tensor(name.into()) }
    }

    /// A tensor of one axis.
    pub(super) fn values(name: &str, values: Vec<f32>) -> Self {
        Self { name: name.into(), shape: vec![values.len()], content: Content::Values(values) }
    }

    /// Rows, and values of each; a tensor of one axis is a column.
    pub(super) fn rows_and_cols(&self) -> (usize, usize) {
        match &self.shape[..] {
            [rows] => (*rows, 1),
            [rows @ .., cols] => (rows.iter().product(), *cols),
            [] => (1, 1),
        }
    }

    /// The tensors that rows are taken from.
    pub(super) fn tensors(&self) -> &[String] {
        match &self.content {
            Content::Tensor(name) => std::slice::from_ref(name),
            Content::Rows { tensors, .. } => tensors,
            Content::Values(_) => &[],
        }
    }

    /// Tensor and row that a row comes from.
    pub(super) fn source(&self, row: usize) -> (usize, usize) {
        match &self.content {
            Content::Rows { rows, .. } => (rows[row].0 as usize, rows[row].1 as usize),
            _ => (0, row),
        }
    }

    /// How the rows lie in the old files, all alike.
    pub(super) fn format(&self, files: &TensorFiles<'_>) -> Result<RowFormat, Error> {
        let stored = self.tensors().first().map(|name| stored(files, name));
        stored.map_or(Ok(RowFormat::F32), |stored| Ok(stored?.1))
    }
}

/// A tensor that is there, and how its rows lie.
pub(super) fn stored<'a>(files: &TensorFiles<'a>, name: &str) -> Result<(Stored<'a>, RowFormat), Error> {
    let name = || name.to_owned();
    let problem = |problem| Error::Tensors { path: files.path().to_owned(), problems: vec![problem] };
    let stored = files.find(&name()).ok_or_else(|| problem(TensorProblem::Missing { name: name() }))?;
    let format = stored.format.map_err(|got| problem(TensorProblem::NotFloat { name: name(), got }))?;
    Ok((stored, format))
}

/// Every tensor of `architecture` under the names `to`, from files with the names `from`.
///
/// # Errors
/// [`Error::Tensors`] with all that are missing or of another shape.
pub(super) fn tensors(
    files: &TensorFiles<'_>,
    architecture: &Architecture,
    from: Naming,
    to: Naming,
) -> Result<Vec<Outgoing>, Error> {
    let mut plan = Plan { files, tensors: Vec::new(), problems: Vec::new() };
    let shape = architecture;
    let (dim, vocab) = (shape.model_dim, shape.vocab_size);
    plan.moved(from.embedding(), to.embedding(), &[vocab, dim]);
    for (i, layer) in shape.layers.iter().enumerate() {
        let heads = Heads { query: layer.query_heads, kv: layer.kv_heads, dim: shape.head_dim };
        let [before, after] = [from, to].map(|naming| naming.layer(i));
        let mut norms: Vec<_> = from.norms().into_iter().zip(to.norms()).map(|pair| (pair, dim)).collect();
        if shape.qk_norm {
            norms.extend(from.head_norms().into_iter().zip(to.head_norms()).map(|pair| (pair, heads.dim)));
        }
        for ((old, new), width) in norms {
            plan.norm(shape.norm, &format!("{before}{old}"), &format!("{after}{new}"), width);
        }
        let mut linear = |of: &dyn Fn(Naming) -> Vec<Part>, cols: usize, biased: bool| {
            let within = |naming: Naming, prefix: &str| -> Vec<Part> {
                of(naming).into_iter().map(|part| part.within(prefix)).collect()
            };
            let (old, new) = (within(from, &before), within(to, &after));
            plan.recut(&old, &new, ".weight", Some(cols));
            if biased {
                plan.recut(&old, &new, ".bias", None);
            }
        };
        linear(&|naming| naming.qkv(heads), dim, shape.biases.qkv);
        linear(&|naming| naming.out(dim), heads.query * heads.dim, shape.biases.out);
        linear(&|naming| naming.up(layer.ffn_dim), dim, shape.biases.ffn);
        linear(&|naming| naming.down(dim), layer.ffn_dim, shape.biases.ffn);
    }
    plan.norm(shape.norm, from.final_norm(), to.final_norm(), dim);
    if !shape.tied {
        plan.moved(from.head(), to.head(), &[vocab, dim]);
    }
    match plan.problems {
        problems if problems.is_empty() => Ok(plan.tensors),
        problems => Err(Error::Tensors { path: files.path().to_owned(), problems }),
    }
}

struct Plan<'a> {
    files: &'a TensorFiles<'a>,
    tensors: Vec<Outgoing>,
    problems: Vec<TensorProblem>,
}

impl Plan<'_> {
    /// Notes whether a tensor is there in that shape.
    fn check(&mut self, name: &str, shape: &[usize]) {
        let name = name.to_owned();
        match self.files.find(&name) {
            None => self.problems.push(TensorProblem::Missing { name }),
            Some(stored) if stored.shape != shape => {
                let (expected, got) = (shape.to_vec(), stored.shape.to_vec());
                self.problems.push(TensorProblem::Misshapen { name, expected, got });
            }
            Some(stored) => {
                let not_float = stored.format.err().map(|got| TensorProblem::NotFloat { name, got });
                self.problems.extend(not_float);
            }
        }
    }

    /// A tensor under another name.
    fn moved(&mut self, old: &str, new: &str, shape: &[usize]) {
        self.check(old, shape);
        let content = Content::Tensor(old.into());
        self.tensors.push(Outgoing { name: new.into(), shape: shape.into(), content });
    }

    fn norm(&mut self, kind: NormKind, old: &str, new: &str, width: usize) {
        let parts: &[&str] = match kind {
            NormKind::Rms => &["weight"],
            NormKind::Layer => &["weight", "bias"],
        };
        for part in parts {
            self.moved(&format!("{old}.{part}"), &format!("{new}.{part}"), &[width]);
        }
    }

    /// The rows of the `old` parts, which are those of the `new` ones in other tensors or another order. `cols` is none
    /// for biases.
    fn recut(&mut self, old: &[Part], new: &[Part], ending: &str, cols: Option<usize>) {
        let shape = |part: &Part| -> Vec<usize> { [Some(part.rows), cols].into_iter().flatten().collect() };
        let name = |part: &Part| format!("{}{ending}", part.name);
        let mut rows: Vec<(u32, u32)> = Vec::new();
        for (i, part) in old.iter().enumerate() {
            self.check(&name(part), &shape(part));
            let row = |row: usize| part.order.as_ref().map_or(row, |order| order[row]);
            rows.extend((0..part.rows).map(|at| (i as u32, row(at) as u32)));
        }
        let mut rest = &rows[..];
        for part in new {
            let (mine, after) = rest.split_at(part.rows);
            rest = after;
            let mut rows = mine.to_vec();
            if let Some(order) = &part.order {
                for (at, row) in order.iter().zip(mine) {
                    rows[*at] = *row;
                }
            }
            let is_whole = |i: usize| {
                old[i].rows == part.rows && (0..).zip(&rows).all(|(at, row)| *row == (i as u32, at))
            };
            let content = match rows.first() {
                Some(&(i, _)) if is_whole(i as usize) => Content::Tensor(name(&old[i as usize])),
                _ => Content::Rows { tensors: old.iter().map(name).collect(), rows },
            };
            self.tensors.push(Outgoing { name: name(part), shape: shape(part), content });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_rows(old: Naming, new: Naming, of: impl Fn(Naming) -> Vec<Part>) -> Vec<Vec<(u32, u32)>> {
        // Rows are planned even where files lack the tensors.
        let empty = tempfile::tempdir().unwrap();
        let path = empty.path().join("x.gguf");
        crate::GgufWriter::create(&path, &crate::GgufMetadata::default(), &[]).unwrap().finish().unwrap();
        let file = crate::GgufFile::open(&path).unwrap();
        let files = TensorFiles::Gguf(&file);
        let mut plan = Plan { files: &files, tensors: Vec::new(), problems: Vec::new() };
        plan.recut(&of(old), &of(new), ".weight", Some(1));
        let rows = |tensor: &Outgoing| {
            (0..tensor.shape[0])
                .map(|row| tensor.source(row))
                .map(|(i, row)| (i as u32, row as u32))
                .collect()
        };
        plan.tensors.iter().map(rows).collect()
    }

    #[test]
    fn rows_are_cut_and_ordered_as_the_new_names_have_them() {
        let heads = Heads { query: 1, kv: 1, dim: 4 };
        let q = [(0, 0), (0, 2), (0, 1), (0, 3)].to_vec();
        let k: Vec<(u32, u32)> = q.iter().map(|(_, row)| (1, *row)).collect();
        let v = [(2, 0), (2, 1), (2, 2), (2, 3)].to_vec();
        let rows = source_rows(Naming::HuggingFace, Naming::GgufLlama, |naming| naming.qkv(heads));
        assert_eq!(rows[..2], [q, k]);
        // A whole tensor counts its rows only.
        assert_eq!(
            rows[2].iter().map(|row| row.1).collect::<Vec<_>>(),
            v.iter().map(|row| row.1).collect::<Vec<_>>()
        );
        let halves = source_rows(Naming::OpenElm, Naming::GgufOpenElm, |naming| naming.up(2));
        assert_eq!(halves, [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]);
        let joined = source_rows(Naming::GgufOpenElm, Naming::OpenElm, |naming| naming.up(2));
        assert_eq!(joined, [[(0, 0), (0, 1), (1, 0), (1, 1)]]);
    }
}
