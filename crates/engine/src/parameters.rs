//! What a model learns: parameters, their gradients, and what the optimisers remember.

use crate::ops::adamw::{self, AdamW};
use crate::ops::muon::{self, Muon};
use crate::{Arena, Cpu, Dtype, Tensor};

/// Which parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// Its place in the order in which parameters were added.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// The f32 values of all parameters; bf16 products round them as they are packed.
#[derive(Debug, Default)]
pub struct Parameters {
    tensors: Vec<Tensor>,
}

impl Parameters {
    /// No parameters yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a matrix; a vector is a matrix of one row.
    pub fn add(&mut self, rows: usize, cols: usize, values: &[f32]) -> ParameterId {
        self.tensors.push(Tensor::from_f32(rows, cols, values));
        ParameterId(self.tensors.len() - 1)
    }

    /// The parameter that was added as number `index`.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn id(&self, index: usize) -> ParameterId {
        assert!(index < self.tensors.len(), "parameter {index} of {}", self.tensors.len());
        ParameterId(index)
    }

    /// The values of a parameter.
    #[must_use]
    pub fn get(&self, id: ParameterId) -> &Tensor {
        &self.tensors[id.0]
    }

    /// The values of a parameter, to change.
    pub fn get_mut(&mut self, id: ParameterId) -> &mut Tensor {
        &mut self.tensors[id.0]
    }

    /// All parameters in the order in which they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// All parameters in order, to change.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Tensor> {
        self.tensors.iter_mut()
    }
}

/// The gradient of every parameter, summed over the batches since [`Gradients::clear`].
///
/// A gradient takes memory, of the tape's arena, from when something reaches it until it is cleared: it comes as
/// the activations go, and lies where they were.
#[derive(Debug)]
pub struct Gradients {
    shapes: Vec<[usize; 2]>,
    /// None where nothing was added yet.
    tensors: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Zero gradients in the shapes of the parameters.
    #[must_use]
    pub fn new(parameters: &Parameters) -> Self {
        let shapes: Vec<_> = parameters.iter().map(|x| [x.rows(), x.cols()]).collect();
        Self { tensors: shapes.iter().map(|_| None).collect(), shapes }
    }

    /// Forgets what was summed, and returns its memory.
    pub fn clear(&mut self) {
        self.tensors.fill_with(|| None);
    }

    /// The gradient of a parameter; zeros if nothing reached it.
    pub fn get(&mut self, id: ParameterId) -> &Tensor {
        let [rows, cols] = self.shapes[id.0];
        self.tensors[id.0].get_or_insert_with(|| Tensor::zeros(rows, cols, Dtype::F32))
    }

    /// A gradient to add to, or to overwrite where the flag says that nothing was added yet: this saves the first
    /// batch a pass of zeros. It counts as written from now on.
    pub(crate) fn accumulate(&mut self, arena: &mut Arena, id: ParameterId) -> (&mut Tensor, bool) {
        let [rows, cols] = self.shapes[id.0];
        let gradient = &mut self.tensors[id.0];
        let fresh = gradient.is_none();
        (gradient.get_or_insert_with(|| arena.tensor(rows, cols, Dtype::F32)), fresh)
    }

    /// Two different ones at once.
    pub(crate) fn accumulate_two(
        &mut self,
        arena: &mut Arena,
        ids: [ParameterId; 2],
    ) -> ([&mut Tensor; 2], [bool; 2]) {
        let fresh = ids.map(|id| self.accumulate(arena, id).1);
        let tensors = self.tensors.get_disjoint_mut(ids.map(|id| id.0)).expect("two different parameters");
        (tensors.map(|tensor| tensor.as_mut().expect("it is there now")), fresh)
    }

    /// The Euclidean norm over all parameters; not finite as soon as one gradient is not.
    pub fn norm(&self, cpu: &Cpu) -> f64 {
        let squares = self.tensors.iter().flatten().map(|g| adamw::squared_norm(cpu, g.f32()));
        squares.fold(0.0, |sum, square| sum + square).sqrt()
    }
}

/// What the optimisers remember: of every parameter a running mean of gradients, and of those that AdamW
/// trains a second one of squares.
#[derive(Debug)]
pub struct Moments {
    /// Running means of gradients.
    pub mean: Vec<Tensor>,
    /// Running means of squared gradients; none for parameters that Muon trains.
    pub square: Vec<Option<Tensor>>,
    /// Rows of the matrices that are stacked in each parameter that Muon trains; empty for the others.
    matrices: Vec<Vec<usize>>,
}

impl Moments {
    /// Zero moments in the shapes of the parameters, all of them for AdamW.
    #[must_use]
    pub fn new(parameters: &Parameters) -> Self {
        Self::with_muon(parameters, vec![Vec::new(); parameters.tensors.len()])
    }

    /// Zero moments, for Muon where `matrices` says of a parameter how many rows each of the matrices has that
    /// are stacked in it, and for AdamW where it says nothing. Muon remembers half as much as AdamW.
    ///
    /// # Panics
    /// If there is not one list for each parameter, or one does not add up to the parameter's rows.
    #[must_use]
    pub fn with_muon(parameters: &Parameters, matrices: Vec<Vec<usize>>) -> Self {
        assert_eq!(matrices.len(), parameters.tensors.len(), "one list of matrices for each parameter");
        let square = |(x, matrices): (&Tensor, &Vec<usize>)| {
            let rows: usize = matrices.iter().sum();
            assert!(matrices.is_empty() || rows == x.rows(), "{rows} rows of matrices in {}", x.rows());
            matrices.is_empty().then(|| Tensor::zeros(x.rows(), x.cols(), Dtype::F32))
        };
        let square = parameters.tensors.iter().zip(&matrices).map(square).collect();
        Self { mean: zeros_like(parameters), square, matrices }
    }

    /// One AdamW step of all parameters that are AdamW's, with gradients multiplied by `grad_scale`. Vectors
    /// (one row) are not decayed.
    pub fn step(
        &mut self,
        cpu: &Cpu,
        settings: &AdamW,
        grad_scale: f32,
        gradients: &mut Gradients,
        parameters: &mut Parameters,
    ) {
        for (i, w) in parameters.tensors.iter_mut().enumerate() {
            let Some(square) = &mut self.square[i] else { continue };
            let weight_decay = if w.rows() == 1 { 0.0 } else { settings.weight_decay };
            let settings = AdamW { weight_decay, ..*settings };
            let g = gradients.get(ParameterId(i));
            let (m, v) = (self.mean[i].f32_mut(), square.f32_mut());
            adamw::step(cpu, &settings, grad_scale, g.f32(), w.f32_mut(), m, v);
        }
    }

    /// One Muon step of all parameters that are Muon's, with gradients multiplied by `grad_scale`.
    pub fn step_muon(
        &mut self,
        cpu: &Cpu,
        arena: &mut Arena,
        settings: &Muon,
        grad_scale: f32,
        gradients: &mut Gradients,
        parameters: &mut Parameters,
    ) {
        for (i, w) in parameters.tensors.iter_mut().enumerate() {
            let cols = w.cols();
            let (mut w, mut m) = (w.f32_mut(), self.mean[i].f32_mut());
            let mut g = gradients.get(ParameterId(i)).f32();
            for &rows in &self.matrices[i] {
                let (g_part, w_part, m_part);
                (g_part, g) = g.split_at(rows * cols);
                (w_part, w) = w.split_at_mut(rows * cols);
                (m_part, m) = m.split_at_mut(rows * cols);
                muon::step(cpu, arena, settings, grad_scale, [rows, cols], g_part, w_part, m_part);
            }
        }
    }
}

fn zeros_like(parameters: &Parameters) -> Vec<Tensor> {
    parameters.tensors.iter().map(|x| Tensor::zeros(x.rows(), x.cols(), Dtype::F32)).collect()
}
