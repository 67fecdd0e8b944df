//! The weights of a model in memory: what training and inference start from.

use std::collections::HashMap;
use std::path::Path;

use crate::config::CONFIG_FILE;
use crate::error::TensorProblem;
use crate::layout::{TensorRole, TensorSpec, layout};
use crate::random::fill_normal;
use crate::safetensors_file::{
    Dtype, FloatType, SafetensorsFolder, SafetensorsWriter, TensorView, WEIGHTS_FILE,
};
use crate::{Error, OpenElmConfig};

/// One tensor with its name and shape.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name, place and shape.
    pub spec: TensorSpec,
    /// The values, last axis fastest.
    pub values: Vec<f32>,
}

/// Every tensor of a model in f32, in the order of [`layout`].
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    tensors: Vec<NamedTensor>,
}

impl Weights {
    /// Fresh weights as the reference begins training with.
    ///
    /// Matrices are normal with standard deviation `fan_in^-0.5`, the embedding and the two matrices that
    /// write into the stream (`out_proj`, `proj_2`) `model_dim^-0.5`, the latter divided by
    /// `sqrt(2 · layers)`; norms are 1. The same `seed` gives the same bits on every machine and with any
    /// number of threads.
    ///
    /// # Source
    /// CoreNet, `reset_parameters` of its OpenELM. The `initializer_range` in `config.json` is a scheme
    /// of another library and not used.
    #[must_use]
    pub fn init(config: &OpenElmConfig, seed: u64) -> Self {
        let fill = |(stream, spec): (u64, TensorSpec)| {
            let mut values = vec![1.0; spec.n_values()];
            if let Some(deviation) = initial_deviation(config, &spec) {
                fill_normal(&mut values, seed, stream, deviation);
            }
            NamedTensor { spec, values }
        };
        Self { tensors: (0..).zip(layout(config)).map(fill).collect() }
    }

    /// Zeros of the same shapes: where gradients and moments are gathered.
    #[must_use]
    pub fn zeros(config: &OpenElmConfig) -> Self {
        let zeros = |spec: TensorSpec| NamedTensor { values: vec![0.0; spec.n_values()], spec };
        Self { tensors: layout(config).into_iter().map(zeros).collect() }
    }

    /// Reads a model folder: `config.json`, and the weights in one safetensors file or several.
    ///
    /// F32, F16 and BF16 are read, under Hugging Face's names or CoreNet's, which lack `transformer.`.
    ///
    /// # Errors
    /// Those of [`OpenElmConfig::load`] and [`SafetensorsFolder::open`]; [`Error::Tensors`] with every
    /// tensor that is missing, superfluous, of another shape or not of floating point.
    pub fn load(folder: impl AsRef<Path>) -> Result<(OpenElmConfig, Self), Error> {
        let folder = folder.as_ref();
        let config = OpenElmConfig::load(folder.join(CONFIG_FILE))?;
        let files = SafetensorsFolder::open(folder)?;
        let weights = Self::from_tensors(&config, files.tensors());
        let weights = weights.map_err(|problems| Error::Tensors { path: folder.to_owned(), problems })?;
        Ok((config, weights))
    }

    /// Writes a model folder that Hugging Face's library loads: `config.json`, `generation_config.json`
    /// and `model.safetensors`, each whole or not at all, the weights last.
    ///
    /// # Errors
    /// [`Error::Write`].
    ///
    /// # Panics
    /// If the weights are not those of the configuration.
    pub fn save(
        &self,
        folder: impl AsRef<Path>,
        config: &OpenElmConfig,
        dtype: FloatType,
    ) -> Result<(), Error> {
        let folder = folder.as_ref();
        assert!(
            layout(config).iter().eq(self.tensors.iter().map(|tensor| &tensor.spec)),
            "weights are saved with their own configuration"
        );
        config.clone().with_torch_dtype(dtype.torch_name()).save(folder.join(CONFIG_FILE))?;
        crate::generation_config::save(folder, config)?;
        let specs = self.tensors.iter().map(|tensor| (tensor.spec.name.as_str(), &tensor.spec.shape[..]));
        let mut writer = SafetensorsWriter::create(folder.join(WEIGHTS_FILE), specs, dtype)?;
        for tensor in &self.tensors {
            writer.tensor(&tensor.values)?;
        }
        writer.finish()
    }

    /// Every tensor in the order of [`layout`].
    #[must_use]
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// Every tensor in the order of [`layout`], to change or take the values of.
    pub fn tensors_mut(&mut self) -> impl ExactSizeIterator<Item = (&TensorSpec, &mut Vec<f32>)> {
        self.tensors.iter_mut().map(|tensor| (&tensor.spec, &mut tensor.values))
    }

    /// Every tensor in the order of [`layout`], given away.
    #[must_use]
    pub fn into_tensors(self) -> Vec<NamedTensor> {
        self.tensors
    }

    /// Values of one tensor; `layer` is 0 for the embedding and the final norm.
    ///
    /// # Panics
    /// If there is no such layer.
    #[must_use]
    pub fn get(&self, role: TensorRole, layer: usize) -> &[f32] {
        let wanted = |tensor: &&NamedTensor| tensor.spec.role == role && tensor.spec.layer == layer;
        &self.tensors.iter().find(wanted).expect("the layer exists").values
    }

    /// Number of values in all tensors.
    #[must_use]
    pub fn n_values(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.values.len()).sum()
    }

    /// Converts the tensors of a file, all of them checked before any is converted.
    fn from_tensors<'a>(
        config: &OpenElmConfig,
        tensors: impl Iterator<Item = TensorView<'a>>,
    ) -> Result<Self, Vec<TensorProblem>> {
        let mut problems = Vec::new();
        let mut found: HashMap<String, TensorView<'a>> = HashMap::new();
        for tensor in tensors {
            let prefix = if tensor.name.starts_with("transformer.") { "" } else { "transformer." };
            if let Some(twice) = found.insert(format!("{prefix}{}", tensor.name), tensor) {
                problems.push(TensorProblem::Superfluous { name: twice.name.to_owned() });
            }
        }
        let mut pairs = Vec::new();
        for spec in layout(config) {
            let name = spec.name.clone();
            match found.remove(&name) {
                None => problems.push(TensorProblem::Missing { name }),
                Some(tensor) if tensor.shape != spec.shape => {
                    let (expected, got) = (spec.shape, tensor.shape.to_vec());
                    problems.push(TensorProblem::Misshapen { name, expected, got });
                }
                Some(tensor) if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) => {
                    problems.push(TensorProblem::NotFloat { name, got: tensor.dtype.name() });
                }
                Some(tensor) => pairs.push((spec, tensor)),
            }
        }
        let mut superfluous: Vec<String> = found.into_values().map(|tensor| tensor.name.to_owned()).collect();
        superfluous.sort_unstable();
        problems.extend(superfluous.into_iter().map(|name| TensorProblem::Superfluous { name }));
        if !problems.is_empty() {
            return Err(problems);
        }
        let read = |(spec, tensor): (TensorSpec, TensorView<'_>)| NamedTensor {
            values: tensor.to_f32().expect("the type was checked above"),
            spec,
        };
        Ok(Self { tensors: pairs.into_iter().map(read).collect() })
    }
}

/// Standard deviation that a tensor begins with; none for norms, which begin at 1.
fn initial_deviation(config: &OpenElmConfig, spec: &TensorSpec) -> Option<f64> {
    let width = config.model_dim() as f64;
    match spec.role {
        TensorRole::TokenEmbeddings => Some(1.0 / width.sqrt()),
        TensorRole::OutProj | TensorRole::Proj2 => {
            Some(1.0 / (width * 2.0 * config.n_layers() as f64).sqrt())
        }
        TensorRole::QkvProj | TensorRole::Proj1 => Some(1.0 / (spec.shape[1] as f64).sqrt()),
        _ => None,
    }
}
